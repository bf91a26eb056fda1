#include "mapping.hpp"

#include "fd.hpp"
#include "page.hpp"
#include "result.hpp"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

namespace smartio {
namespace {

/// A block of registers may be larger than memory: few ones are mapped over and over, and at most 4096 times, since a
/// process has some 65000 mappings.
std::size_t piece_of(std::size_t size) { return std::max(huge_page_size, whole_pages(size / 4096)); }

/// A memory file full of ones.
Result<Fd> ones_of(std::size_t bytes) {
  auto file = TRY(make_memfd("smartio-ones", bytes));
  const auto mapping = TRY(Mapping::map(file.get(), 0, bytes));
  std::memset(mapping.bytes().data(), 0xff, bytes);
  return file;
}

} // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Result<Mapping> Mapping::map(int fd, std::uint64_t offset, std::size_t bytes, bool writable) {
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* data = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) return fail_errno(errno, fmt::format("map {} bytes of descriptor {}", bytes, fd));
  return Mapping(static_cast<std::byte*>(data), bytes);
}

Result<void> Mapping::replace_by_ones() noexcept {
  if (data_ == nullptr) return {};
  const auto piece = piece_of(size_);
  const auto ones = TRY(ones_of(piece));
  // Each new mapping takes the old one's place at once, so that no load ever sees anything but the device or ones.
  for (std::size_t at = 0; at < size_; at += piece) {
    const auto bytes = std::min(piece, size_ - at);
    constexpr long flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, protection = PROT_READ | PROT_WRITE;
    // Not mmap(): the thread sanitizer takes that for a write to what others load there meanwhile, as they may.
    if (::syscall(SYS_mmap, data_ + at, bytes, protection, flags, long{ones.get()}, 0L) == -1)
      return fail_errno(errno, fmt::format("replace a mapping of {} bytes", size_));
  }
  return {};
}

} // namespace smartio
