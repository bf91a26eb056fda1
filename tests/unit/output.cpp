// Standard streams in each state that a program can find them in. Each case is tried in a child process.
#include "output.hpp"

#include "catch.hpp"
#include "fd.hpp"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;

namespace {

/// What the child ends with: whether that held, in it.
bool in_child(const std::function<bool()>& holds) {
  const auto child = ::fork();
  if (child == 0) ::_exit(holds() ? 0 : 1);
  int status = 0;
  return ::waitpid(child, &status, 0) == child && status == 0;
}

int error_of(const Result<void>& result) { return result ? 0 : result.error().code.value(); }

bool is_null(int fd, int mode) {
  struct stat found {
  }, null{};
  return ::fstat(fd, &found) == 0 && ::stat("/dev/null", &null) == 0 && found.st_rdev == null.st_rdev &&
         (::fcntl(fd, F_GETFL) & O_ACCMODE) == mode && (::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0;
}

} // namespace

TEST_CASE("standard descriptors that are closed are taken, and to use them fails as before") {
  const auto closed = GENERATE(range(1, 8)); // a bit for each
  CAPTURE(closed);
  CHECK(in_child([closed] {
    for (int fd = 0; fd < 3; ++fd)
      if ((closed >> fd & 1) != 0) ::close(fd);
    if (!prepare_standard_streams()) return false;
    char byte = 0;
    const bool in = (closed & 1) == 0 || (is_null(0, O_WRONLY) && ::read(0, &byte, 1) < 0 && errno == EBADF);
    const bool out = (closed & 2) == 0 || (is_null(1, O_RDONLY) && error_of(write_output("x")) == EBADF);
    const bool err = (closed & 4) == 0 || (is_null(2, O_RDONLY) && (say("{}", "x"), true));
    return in && out && err && Fd(::open("/dev/null", O_RDONLY)).get() > 2;
  }));
}

TEST_CASE("standard descriptors that are open stay what they are") {
  CHECK(in_child([] {
    const auto file = make_memfd("output", 0).value();
    ::dup2(file.get(), STDOUT_FILENO);
    ::dup2(file.get(), STDERR_FILENO);
    if (!prepare_standard_streams() || !write_output("one\n") || !write_output("")) return false;
    say("{}{}", "two", '\n');
    char text[16];
    return std::string(text, static_cast<std::size_t>(::pread(file.get(), text, sizeof text, 0))) == "one\ntwo\n";
  }));
}

TEST_CASE("what cannot be written is an error, and no signal") {
  CHECK(in_child([] {
    int ends[2];
    if (!prepare_standard_streams() || ::pipe(ends) != 0) return false;
    ::close(ends[0]);
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    say("x");
    return error_of(write_output("x")) == EPIPE;
  }));
  CHECK(in_child([] {
    const Fd full(::open("/dev/full", O_WRONLY));
    ::dup2(full.get(), STDOUT_FILENO);
    ::dup2(full.get(), STDERR_FILENO);
    say("x");
    return error_of(write_output("x")) == ENOSPC;
  }));
  CHECK(in_child([] {
    const auto file = make_memfd("output", 0).value();
    const ::rlimit small{.rlim_cur = 5, .rlim_max = 5};
    if (!prepare_standard_streams() || ::setrlimit(RLIMIT_FSIZE, &small) != 0) return false;
    ::dup2(file.get(), STDOUT_FILENO);
    return error_of(write_output("longer")) == EFBIG && ::lseek(file.get(), 0, SEEK_END) == 5;
  }));
}

TEST_CASE("what is said at once waits for nobody, and is written whole if it is short") {
  CHECK(in_child([] {
    int ends[2];
    if (::pipe(ends) != 0 || ::fcntl(ends[1], F_SETPIPE_SZ, 4096) != 4096) return false;
    ::dup2(ends[1], STDERR_FILENO);
    std::string line(PIPE_BUF, 'x');
    if (!say_at_once("") || !say_at_once("x") || say_at_once(line)) return false;
    if (::read(ends[0], line.data(), line.size()) != 1 || !say_at_once(line)) return false;
    if (::read(ends[0], line.data(), line.size()) != PIPE_BUF) return false;
    return !say_at_once(line + line); // half of it is there
  }));
}

TEST_CASE("what is said at once waits for nobody at a terminal or a socket either") {
  const bool terminal = GENERATE(false, true);
  CAPTURE(terminal);
  CHECK(in_child([terminal] {
    ::alarm(60); // it would wait for ever
    int ends[2] = {::posix_openpt(O_RDWR | O_NOCTTY), -1};
    if (::grantpt(ends[0]) != 0 || ::unlockpt(ends[0]) != 0) return false;
    ends[1] = terminal ? ::open(::ptsname(ends[0]), O_RDWR | O_NOCTTY) : -1;
    if (!terminal && ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return false;
    ::dup2(ends[1], STDERR_FILENO);
    if (!say_at_once("x")) return false;
    const std::string line(150, 'x');
    for (unsigned lines = 0; say_at_once(line); ++lines)
      if (lines > 100000) return false;
    return (::fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK) == 0; // it is others', too
  }));
}

TEST_CASE("what was not ignored before is restored for programs that are started") {
  CHECK(in_child([] {
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_DFL);
    if (!prepare_standard_streams()) return false;
    return ::sigismember(&ignored_for_output(), SIGPIPE) == 0 && ::sigismember(&ignored_for_output(), SIGXFSZ) == 1;
  }));
}

TEST_CASE("output waits for the reader of a pipe that does not block") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_NONBLOCK) == 0);
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const std::string text(1 << 20, 'x');
  const auto child = ::fork();
  if (child == 0) ::_exit(write_all(writer.get(), std::as_bytes(std::span(text))) ? 0 : 1);
  writer.reset();
  std::size_t arrived = 0;
  char piece[4096];
  ::fcntl(reader.get(), F_SETFL, 0);
  for (::ssize_t got = 0; (got = ::read(reader.get(), piece, sizeof piece)) > 0;)
    arrived += static_cast<std::size_t>(got);
  int status = 0;
  CHECK((::waitpid(child, &status, 0) == child && status == 0));
  CHECK(arrived == text.size());
}
