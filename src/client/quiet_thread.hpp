// Threads of the library in other people's programs.
#pragma once

#include "result.hpp"

#include <csignal>
#include <functional>
#include <thread>

namespace smartio {

/// A thread that takes none of the program's signals, but for those that its own doing raises: blocked, they would end
/// the process without the program's handlers (guard_bus_errors). The errno of pthread_create.
inline Result<std::thread> quiet_thread(std::move_only_function<void()> body) {
  struct Blocked {
    Blocked() {
      ::sigset_t others;
      ::sigfillset(&others);
      for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) ::sigdelset(&others, own);
      ::pthread_sigmask(SIG_SETMASK, &others, &before);
    }
    ~Blocked() { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    ::sigset_t before;
  } const blocked;
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    return fail_errno(error.code().value(), "start a thread");
  }
}

} // namespace smartio
