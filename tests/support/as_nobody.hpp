// Doing something as a user without rights, where tests run as root.
#pragma once

#include "fd.hpp"

#include <fcntl.h>
#include <functional>
#include <grp.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::testing {

inline constexpr unsigned nobody = 65534;

/// What `doing` says as user and group 65534, in a process of its own; it has the descriptors of this one, and nothing
/// that it changes comes back. "(died)" when it does not come back itself.
inline std::string as_nobody(const std::function<std::string()>& doing) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return "(no pipe)";
  Fd reading(ends[0]), writing(ends[1]);
  const auto child = ::fork();
  if (child == 0) {
    const bool changed = ::setgroups(0, nullptr) == 0 && ::setresgid(nobody, nobody, nobody) == 0 &&
                         ::setresuid(nobody, nobody, nobody) == 0;
    const auto said = changed ? doing() : "(still root)";
    const auto written = ::write(writing.get(), said.data(), said.size());
    ::_exit(written == static_cast<ssize_t>(said.size()) ? 0 : 1);
  }
  writing.reset();
  std::string said(4096, '\0');
  const auto got = ::read(reading.get(), said.data(), said.size());
  said.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? said : said + "(died)";
}

} // namespace smartio::testing
