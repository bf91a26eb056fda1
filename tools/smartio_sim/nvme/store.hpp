// The file behind the namespace, through the page cache. Addresses are logical blocks that the caller has checked.
// Calls block as long as the file system does.
#pragma once

#include "fd.hpp"
#include "spec.hpp"

#include <optional>
#include <span>
#include <string>
#include <sys/uio.h>

namespace smartio::sim::nvme {

class Store {
public:
  /// Opens (with `bytes`: creates or extends to that size) the file and locks it against a second model. Errors:
  /// Errc::bad_request (no such file and no size, not a regular file, not a whole number of blocks), Errc::busy, errno.
  static Result<Store> open(const std::string& path, std::optional<std::uint64_t> bytes, std::uint32_t block_size);
  /// The same on an open file, which is not locked.
  static Result<Store> from_fd(Fd fd, std::uint32_t block_size);

  std::uint64_t blocks() const noexcept { return blocks_; }
  std::uint32_t block_size() const noexcept { return block_size_; }

  // Each gives 0 or an errno: EFAULT when the client's memory has gone, EIO when the file has.
  int read(std::uint64_t block, std::span<iovec> to) const;
  int write(std::uint64_t block, std::span<iovec> from) const; ///< in the page cache, not yet on the medium
  int flush() const;                                           ///< fdatasync: all that was written is on the medium
  /// The blocks read as zeros; `deallocate` also gives up their space where the file system can.
  int zero(std::uint64_t block, std::uint64_t count, bool deallocate) const;

private:
  Store(Fd fd, std::uint64_t blocks, std::uint32_t block_size)
      : fd_(std::move(fd)), blocks_(blocks), block_size_(block_size) {}
  int write_zeros(std::uint64_t offset, std::uint64_t bytes) const;

  Fd fd_;
  std::uint64_t blocks_;
  std::uint32_t block_size_;
};

} // namespace smartio::sim::nvme
