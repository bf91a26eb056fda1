#include "fd.hpp"

#include "result.hpp"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace smartio {
namespace {

/// Signals eventfds as the kernel's own drivers do: io_submit(2) adds 1 to IOCB_FLAG_RESFD's when an operation is
/// done, and never waits for room. A write would, whenever whoever shares the open file has filled it and taken
/// O_NONBLOCK from it.
class Signaller {
public:
  Signaller() : ready_(::eventfd(0, EFD_CLOEXEC)) {
    if (ready_ < 0 || ::syscall(SYS_io_setup, 1, &context_) != 0) context_ = 0;
  }
  bool usable() const noexcept { return context_ != 0 && process_ == ::getpid(); } // a child of fork() has none

  /// False where the kernel has no memory for it.
  bool signal(int fd) noexcept {
    iocb operation{}; // asks whether an empty eventfd has room: done when submitted
    operation.aio_lio_opcode = IOCB_CMD_POLL;
    operation.aio_fildes = static_cast<std::uint32_t>(ready_);
    operation.aio_buf = POLLOUT;
    operation.aio_flags = IOCB_FLAG_RESFD;
    operation.aio_resfd = static_cast<std::uint32_t>(fd);
    iocb* one = &operation;
    for (int tries = 0; tries < 16; ++tries) {
      if (::syscall(SYS_io_submit, context_, 1, &one) == 1) return true;
      if (errno != EAGAIN) return true; // no eventfd: nothing is to be done
      make_room();
    }
    return false;
  }

private:
  /// The results, which nobody needs.
  void make_room() noexcept {
    io_event results[64];
    ::syscall(SYS_io_getevents, context_, 0, 64, results, nullptr);
  }

  int ready_;
  ::pid_t process_ = ::getpid();
  aio_context_t context_ = 0;
};

bool has_room(int fd) noexcept {
  pollfd entry{fd, POLLOUT, 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLOUT) != 0;
}

} // namespace

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
  static Signaller signaller; // never destroyed: threads of ours may signal until the process ends
  if (signaller.usable() && signaller.signal(fd)) return;
  if (!has_room(fd)) return; // the host may have no contexts left (fs.aio-max-nr)
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);
}

std::uint64_t drain_eventfd(int fd) noexcept {
  std::uint64_t count = 0;
  const iovec into{&count, sizeof count};
  return ::preadv2(fd, &into, 1, -1, RWF_NOWAIT) == sizeof count ? count : 0;
}

::ucred peer_of(int socket) noexcept {
  ::ucred peer{.pid = 0, .uid = static_cast<uid_t>(-1), .gid = static_cast<gid_t>(-1)};
  socklen_t size = sizeof peer;
  [[maybe_unused]] const int ignored = ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size);
  return peer;
}

bool is_ours(int socket) noexcept {
  const auto user = peer_of(socket).uid;
  return user == 0 || user == ::geteuid();
}

} // namespace smartio
