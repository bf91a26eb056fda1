#include "mapping.hpp"

#include "result.hpp"

#include <cstring>
#include <sys/mman.h>
#include <utility>

namespace smartio {

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
  // A second mapping is filled first and then moved over the old one, so that no load ever sees anything but the
  // device or ones.
  void* ones = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (ones == MAP_FAILED) return fail_errno(errno, fmt::format("map {} bytes of ones", size_));
  std::memset(ones, 0xff, size_);
  if (::mremap(ones, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, data_) == MAP_FAILED) {
    const int number = errno;
    ::munmap(ones, size_);
    return fail_errno(number, fmt::format("replace a mapping of {} bytes", size_));
  }
  return {};
}

} // namespace smartio
