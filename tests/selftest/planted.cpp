// planted FAULT WHEN : a program as tests start them, that does one thing wrong: "now", "early" (before it is told to
// end, which it then waits for) or "late" (when it is told to end).
#include "planted.hpp"

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string_view fault = argv[1], when = argv[2];
  ::sigset_t stop;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  if (when != "late") planted::commit(fault);
  if (when == "now") return 0;
  std::puts("ready");
  std::fflush(stdout);
  int signal = 0;
  ::sigwait(&stop, &signal);
  if (when == "late") planted::commit(fault);
  return 0;
}
