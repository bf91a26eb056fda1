// Owning memory mappings.
#pragma once

#include <smartio/error.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace smartio {

/// Owns one shared mapping of a file, or none.
class Mapping {
public:
  Mapping() noexcept = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  /// `offset` and `bytes` in bytes; the offset a multiple of the page size. `writable` false maps read-only.
  static Result<Mapping> map(int fd, std::uint64_t offset, std::size_t bytes, bool writable = true);

  std::span<std::byte> bytes() const noexcept { return {data_, size_}; }
  explicit operator bool() const noexcept { return data_ != nullptr; }

  /// Replaces the mapping, at the same address, by private memory full of ones: loads give all ones, stores go nowhere.
  Result<void> replace_by_ones() noexcept;

  /// Gives up the mapping without unmapping it: it stays until the process ends.
  void leak() noexcept {
    data_ = nullptr;
    size_ = 0;
  }

private:
  Mapping(std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Whether `bytes` at `offset` lie within a file of `limit` bytes; no sum that could wrap.
constexpr bool in_range(std::uint64_t offset, std::uint64_t bytes, std::uint64_t limit) noexcept {
  return bytes <= limit && offset <= limit - bytes;
}

} // namespace smartio
