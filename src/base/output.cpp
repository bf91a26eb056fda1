#include "output.hpp"

#include "fd.hpp"
#include "result.hpp"

#include <climits>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace smartio {
namespace {

::sigset_t ignored_here{}; // empty until prepare_standard_streams()

Result<void> take_if_closed(int fd, int mode) {
  if (::fcntl(fd, F_GETFD) >= 0) return {};
  if (::open("/dev/null", mode) == fd) return {}; // the lowest that is free: those below are taken
  return fail_errno(errno, fmt::format("open /dev/null as descriptor {}, which is closed", fd));
}

void ignore(int signal) {
  if (::signal(signal, SIG_IGN) == SIG_DFL) ::sigaddset(&ignored_here, signal);
}

} // namespace

Result<void> prepare_standard_streams() {
  TRY(take_if_closed(STDIN_FILENO, O_WRONLY));
  TRY(take_if_closed(STDOUT_FILENO, O_RDONLY));
  TRY(take_if_closed(STDERR_FILENO, O_RDONLY));
  ignore(SIGPIPE);
  ignore(SIGXFSZ);
  return {};
}

const ::sigset_t& ignored_for_output() noexcept { return ignored_here; }

Result<void> write_all(int fd, std::span<const std::byte> bytes, std::string_view where) {
  while (!bytes.empty()) {
    const auto written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EAGAIN) {
      ::pollfd room{fd, POLLOUT, 0};
      ::poll(&room, 1, -1);
    } else if (written < 0 && errno != EINTR) {
      return fail_errno(errno, fmt::format("write to {}", where));
    } else if (written > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  return {};
}

Result<void> write_output(std::string_view text) { return write_all(STDOUT_FILENO, std::as_bytes(std::span(text))); }

void say_text(std::string_view text) noexcept {
  while (!text.empty()) {
    const auto written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

namespace {

/// Of what is there for PIPE_BUF bytes if poll says so, that is a pipe; sockets and terminals may have less. O_NONBLOCK
/// on standard error itself would be for everybody who has it, hence a terminal is opened anew.
::ssize_t write_at_once(std::string_view piece) noexcept {
  const auto sent = ::send(STDERR_FILENO, piece.data(), piece.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0 || errno != ENOTSOCK) return sent;
  if (::isatty(STDERR_FILENO) == 0) return ::write(STDERR_FILENO, piece.data(), piece.size());
  const Fd terminal(::open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  return terminal ? ::write(terminal.get(), piece.data(), piece.size()) : -1;
}

} // namespace

bool say_at_once(std::string_view text) noexcept {
  while (!text.empty()) {
    ::pollfd room{STDERR_FILENO, POLLOUT, 0};
    if (::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) return false;
    const auto piece = text.substr(0, PIPE_BUF); // no more fits for sure
    const auto written = write_at_once(piece);
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

} // namespace smartio
