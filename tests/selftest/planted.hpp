// Faults on purpose: what looks at tests must find each of them.
#pragma once

#include <cassert>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace planted {

inline volatile int sink = 0;

inline int overflow(int by) {
  volatile int number = INT_MAX;
  return number + by;
}

inline void use_after_free() {
  auto* number = new int(1);
  auto* volatile same = number;
  delete number;
  sink = *same;
}

inline void leak() {
  char* volatile lost = new char[1000];
  sink = *lost = 0;
  lost = nullptr;
}

inline void race() {
  int number = 0;
  std::thread other([&number] { ++number; });
  ++number;
  other.join();
  sink = number;
}

/// Nobody looks at how the child ends.
inline void in_child() {
  if (const auto child = ::fork(); child != 0)
    ::waitpid(child, nullptr, 0);
  else {
    sink = overflow(1);
    ::_exit(0);
  }
}

/// It outlives its parent.
inline void leave_child() {
  if (::fork() == 0) {
    ::alarm(60);
    while (true) ::pause();
  }
}

[[noreturn]] inline void hang() {
  ::signal(SIGTERM, SIG_IGN);
  while (true) ::pause();
}

inline void commit(std::string_view fault) {
  if (fault == "overflow") sink = overflow(1);
  if (fault == "use-after-free") use_after_free();
  if (fault == "leak") leak();
  if (fault == "race") race();
  if (fault == "child") in_child();
  if (fault == "left-child") leave_child();
  if (fault == "hang") hang();
  if (fault == "death") ::_exit(0);
  if (fault == "crash") ::raise(SIGSEGV);
  if (fault == "assertion") assert(sink != 0);
}

} // namespace planted
