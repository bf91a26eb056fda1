#include "child.hpp"

#include "fd.hpp"
#include "result.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <csignal>
#include <fcntl.h>
#include <optional>
#include <poll.h>
#include <span>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::vfio::host {
namespace {

using Clock = std::chrono::steady_clock;

/// Until when somebody waits.
struct Patience {
  std::chrono::milliseconds time;
  Clock::time_point end = Clock::now() + time;
};

/// What is left of a fork: the pipe's end as standard input, nothing else. Only async-signal-safe calls from here on:
/// other threads' locks were copied as they stood.
void keep_only(int pipe) {
  ::dup2(pipe, STDIN_FILENO);
  ::close_range(STDIN_FILENO + 1, ~0U, 0);
}

/// Starts `body` in a grandchild, which the system reaps, and gives the read end of the pipe it holds as its standard
/// input. `body` may only make async-signal-safe calls, and must not return.
template <class Body> Result<Fd> start(const Body& body) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  Fd reading(ends[0]);
  const Fd writing(ends[1]);
  const auto child = ::_Fork();
  if (child < 0) return fail_errno(errno, "fork");
  if (child == 0) {
    const auto grandchild = ::_Fork();
    if (grandchild != 0) ::_exit(grandchild < 0 ? errno : 0);
    keep_only(writing.get());
    body();
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) return fail_errno(WEXITSTATUS(status), "fork");
  return reading;
}

/// What a grandchild says, with one write: no more than a pipe takes at once (PIPE_BUF).
struct Answer {
  int number = -1; ///< an errno; -1: it ended without an answer
  unsigned size = 0;
  std::array<char, 1000> text{};
};
static_assert(sizeof(Answer) <= PIPE_BUF);

[[noreturn]] void answer(const Answer& with) {
  ::_exit(::write(STDIN_FILENO, &with, sizeof with) == sizeof with ? 0 : 1);
}

/// nullopt if the grandchild is not heard of in time.
std::optional<Answer> answer_of(int pipe, const Patience& patience) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(patience.end - Clock::now());
    pollfd waiting{pipe, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(std::max<long>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return std::nullopt;
    Answer got;
    return ::read(pipe, &got, sizeof got) == sizeof got ? got : Answer{};
  }
}

/// The answer, if it is that all went well.
Result<Answer> good_answer(int pipe, const Patience& patience, const char* doing, const std::string& path) {
  auto got = answer_of(pipe, patience);
  if (!got)
    return fail(Errc::timed_out, "To {} {} takes longer than {} ms and goes on.", doing, path, patience.time.count());
  if (got->number != 0) return fail_errno(got->number < 0 ? ECHILD : got->number, fmt::format("{} {}", doing, path));
  return std::move(*got);
}

/// Ends this process then, whatever signals its parent blocks or ignores.
void end_after(unsigned seconds) {
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  ::sigaction(SIGALRM, &by_default, nullptr);
  ::sigset_t alarm_only;
  ::sigemptyset(&alarm_only);
  ::sigaddset(&alarm_only, SIGALRM);
  ::sigprocmask(SIG_UNBLOCK, &alarm_only, nullptr);
  ::alarm(seconds);
}

/// What the file holds, in parts; the last one is not full.
[[noreturn]] void answer_with(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  for (;;) {
    Answer part{.number = 0};
    const auto got = fd < 0 ? -1 : ::read(fd, part.text.data(), part.text.size());
    if (got < 0) answer({.number = errno});
    part.size = static_cast<unsigned>(got);
    if (part.size < part.text.size()) answer(part);
    if (::write(STDIN_FILENO, &part, sizeof part) != sizeof part) ::_exit(1);
  }
}

} // namespace

Result<void> write_in_child(const std::string& path, const std::string& text, std::chrono::milliseconds patience) {
  const auto pipe = TRY(start([&path, &text] {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const bool done = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    answer({.number = done ? 0 : errno});
  }));
  TRY(good_answer(pipe.get(), {patience}, "write to", path));
  return {};
}

Result<std::string> read_in_child(const std::string& path, std::chrono::milliseconds patience) {
  const auto pipe = TRY(start([&path] {
    Answer text{.number = 0};
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const auto got = fd < 0 ? -1 : ::read(fd, text.text.data(), text.text.size());
    if (got < 0) answer({.number = errno});
    text.size = static_cast<unsigned>(got);
    answer(text);
  }));
  const auto got = TRY(good_answer(pipe.get(), {patience}, "read", path));
  std::string text(got.text.data(), std::min<std::size_t>(got.size, got.text.size()));
  text.erase(text.find_last_not_of(" \n\t") + 1);
  return text;
}

Result<std::vector<std::byte>> read_bytes_in_child(const std::string& path, std::size_t most,
                                                   std::chrono::milliseconds time) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(time).count();
  const auto pipe = TRY(start([&path, seconds] {
    end_after(static_cast<unsigned>(seconds));
    answer_with(path.c_str());
  }));
  const Patience patience{time};
  std::vector<std::byte> bytes;
  for (bool more = true; more && bytes.size() < most;) {
    const auto part = TRY(good_answer(pipe.get(), patience, "read", path));
    const auto got = std::as_bytes(std::span(part.text)).first(std::min<std::size_t>(part.size, part.text.size()));
    bytes.insert(bytes.end(), got.begin(), got.end());
    more = got.size() == part.text.size();
  }
  bytes.resize(std::min(bytes.size(), most));
  return bytes;
}

void run_in_child(const char* program, const char* first, const char* second, std::chrono::milliseconds patience) {
  const auto pipe = start([program, first, second] {
    ::open("/dev/null", O_WRONLY);
    ::dup2(1, 2);
    // The pipe stays open across exec: its end is the program's end.
    ::execl(program, program, first, second, static_cast<char*>(nullptr));
    ::_exit(127);
  });
  if (pipe) answer_of(pipe->get(), {patience});
}

} // namespace smartio::vfio::host
