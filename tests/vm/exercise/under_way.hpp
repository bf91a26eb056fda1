// Programs that tell the test that they are under way, and go on until it ends them.
#pragma once

#include <csignal>
#include <cstdio>
#include <string>

namespace exercise {

inline ::sigset_t ends() {
  ::sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  return set;
}

/// For await_end: to be called before there are threads.
inline void block_end() {
  const auto set = ends();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

inline void await_end() { ///< SIGTERM
  const auto set = ends();
  int number = 0;
  ::sigwait(&set, &number);
}

inline void under_way(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

} // namespace exercise
