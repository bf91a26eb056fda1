#include "run.hpp"

#include "output.hpp"
#include "print.hpp"
#include "result.hpp"

#include <cerrno>
#include <csignal>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::tool {
namespace {

/// While it lives, what would end this program is kept for `sigwaitinfo`, since the device must be returned first.
class HeldSignals {
public:
  HeldSignals() {
    ::sigemptyset(&held_);
    for (const int signal : {SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) ::sigaddset(&held_, signal);
    ::sigprocmask(SIG_BLOCK, &held_, &before_);
    ::signal(SIGCHLD, SIG_DFL); // where it is ignored, a child that ended cannot be waited for
  }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  ~HeldSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

  const sigset_t& held() const { return held_; }
  const sigset_t& before() const { return before_; }

private:
  sigset_t held_{}, before_{};
};

int start(std::vector<std::string>& words, const sigset_t& mask, ::pid_t& child) {
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigmask(&attributes, &mask);
  ::posix_spawnattr_setsigdefault(&attributes, &ignored_for_output());
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  const int error = ::posix_spawnp(&child, argv.front(), nullptr, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  return error;
}

/// The exit code, once it has ended. A signal that a process sent is passed on; one of the terminal (SI_KERNEL) went to
/// the whole foreground group.
Result<int> wait_for(::pid_t child, const sigset_t& signals) {
  for (;;) {
    siginfo_t signal{};
    if (::sigwaitinfo(&signals, &signal) < 0 && errno != EINTR) return fail_errno(errno, "wait for signals");
    if (signal.si_signo != 0 && signal.si_signo != SIGCHLD && signal.si_code <= 0) ::kill(child, signal.si_signo);
    int status = 0;
    const auto ended = ::waitpid(child, &status, WNOHANG);
    if (ended < 0) return fail_errno(errno, "wait for the command");
    if (ended > 0) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
}

} // namespace

std::vector<std::string> with_socket(std::vector<std::string> words, std::string_view socket) {
  constexpr std::string_view name = "{socket}";
  for (auto& word : words)
    for (auto at = word.find(name); at != std::string::npos; at = word.find(name, at + socket.size()))
      word.replace(at, name.size(), socket);
  return words;
}

Result<int> run_command(std::vector<std::string> words) {
  const HeldSignals signals;
  ::pid_t child = 0;
  if (const int error = start(words, signals.before(), child); error != 0) {
    say("smartio_tool: cannot run '{}': {}\n", printable(words.front()), std::generic_category().message(error));
    return error == ENOENT ? 127 : 126;
  }
  return wait_for(child, signals.held());
}

} // namespace smartio::tool
