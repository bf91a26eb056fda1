#include "fd.hpp"

#include "result.hpp"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

namespace smartio {

void Fd::reset(int fd) noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<Fd> Fd::duplicate() const { return smartio::duplicate(fd_); }

Result<Fd> duplicate(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno(errno, fmt::format("duplicate descriptor {}", fd));
  return copy;
}

Result<Fd> make_memfd(const char* name, std::size_t bytes, bool huge_pages) {
  const unsigned huge = huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0U;
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
  if (!fd) return fail_errno(errno, fmt::format("memfd_create {}", name));
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return fail_errno(errno, fmt::format("set the size of memory file {} to {} bytes", name, bytes));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0)
    return fail_errno(errno, fmt::format("seal memory file {}", name));
  return fd;
}

Result<Fd> make_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return fail_errno(errno, "eventfd");
  return fd;
}

void signal_eventfd(int fd) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);
}

std::uint64_t drain_eventfd(int fd) noexcept {
  std::uint64_t count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

} // namespace smartio
