// smartiod: a node as a service, in the foreground. Ready when RUN_DIR/smartiod.sock answers; SIGTERM, SIGINT or
// SIGQUIT ends loans, gives devices back and exits 0, or 1 when a device did not go back. SIGHUP, SIGUSR1, SIGUSR2 and
// timers' signals do nothing.
#include "notify.hpp"
#include "options.hpp"
#include "output.hpp"
#include "result.hpp"
#include "text.hpp"

#include <csignal>
#include <sys/resource.h>

namespace {

int exit_code(const smartio::Error& error) {
  if (error.code == smartio::Errc::bad_request) return 2;
  if (error.code == smartio::Errc::busy) return 4;
  if (error.code == smartio::Errc::not_permitted) return 5;
  return 1;
}

int failed(const smartio::Error& error) {
  smartio::say("smartiod: {}\n", smartio::printable(to_string(error)));
  return exit_code(error);
}

/// systemd's journal takes the level from the prefix. A log that cannot be written is no reason to end, and one whose
/// reader stands still none to wait: peers would take this node for dead.
void smartio_log(int level, std::string_view text) {
  static unsigned lost = 0; // by one thread at a time: the one that starts the node, then the node's
  if (lost != 0 && smartio::say_at_once(fmt::format("<4>smartiod: {} lines could not be logged\n", lost))) lost = 0;
  if (!smartio::say_at_once(fmt::format("<{}>smartiod: {}\n", level, text))) ++lost;
}

/// Devices, clients and their interrupts take descriptors; the usual soft limit is there for programs that use
/// select().
void raise_descriptor_limit() {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

} // namespace

int main(int argc, char** argv) {
  if (const auto prepared = smartio::prepare_standard_streams(); !prepared) return failed(prepared.error());
  auto config = smartio::read_options(argc, argv);
  if (!config) return failed(config.error());
  if (!*config) return 0;
  (*config)->log = &smartio_log;

  ::sigset_t stop;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTERM);
  ::sigaddset(&stop, SIGINT);
  ::sigaddset(&stop, SIGQUIT);
  ::pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  for (const int ignored : {SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO}) ::signal(ignored, SIG_IGN);
  raise_descriptor_limit();

  const auto node = smartio::Node::start(**config);
  if (!node) return failed(node.error());
  smartio::notify_systemd("READY=1");
  int signal = 0;
  ::sigwait(&stop, &signal);
  smartio::notify_systemd("STOPPING=1");
  return node->stop() ? 0 : 1;
}
