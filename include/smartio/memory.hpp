// Memory that can be shared with a device.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>

#include <cstddef>
#include <memory>
#include <span>

namespace smartio::detail {
struct Memory;
} // namespace smartio::detail

namespace smartio {
inline namespace v0 {

/// Memory that can be shared with a device: a descriptor, an offset, a size. Copies share it; the pages live until the
/// last copy and the last window on it are gone.
class Memory {
public:
  Memory() = default; ///< empty, as one that was moved from: to be tested, assigned and destroyed
  explicit operator bool() const noexcept { return impl_ != nullptr; }

  /// A memfd of `bytes` (rounded up to whole pages, 4 KiB or 2 MiB with `huge_pages`), zero-filled and sealed against
  /// shrinking, mapped in this process. Fails with the errno of memfd_create, ftruncate, fcntl or mmap.
  static Result<Memory> allocate(std::size_t bytes, bool huge_pages = false);

  /// `bytes` at `offset` (a multiple of 4 KiB) of a file that can be mapped shared, readable and writable; duplicates
  /// `fd`. Errc::bad_request if the range is not within the file.
  static Result<Memory> from_fd(int fd, std::size_t offset, std::size_t bytes);

  /// The memory, mapped in this process. A device with a window on it reads and writes it at any time.
  std::span<std::byte> bytes() const noexcept;

  int fd() const noexcept;             ///< borrowed
  std::size_t offset() const noexcept; ///< of the memory within fd(), in bytes
  std::size_t size() const noexcept { return bytes().size(); }

private:
  explicit Memory(std::shared_ptr<detail::Memory> impl) noexcept : impl_(std::move(impl)) {}
  std::shared_ptr<detail::Memory> impl_;
};

} // namespace v0
} // namespace smartio

#endif
