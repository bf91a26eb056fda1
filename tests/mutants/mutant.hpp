// What mutated sources ask: whether the bug of this number is switched on, in this run of the program. With
// SMARTIO_MUTANT_TRACE=FILE each number that is asked for is added to FILE, once by each process. Any thread may ask,
// a signal handler too.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <type_traits>
#include <unistd.h>

namespace mutants {

struct Settings {
  unsigned long chosen = 0;
  const char* trace = nullptr;
};

inline const Settings& settings() {
  static const Settings found = [] {
    const char* chosen = std::getenv("SMARTIO_MUTANT");
    return Settings{chosen != nullptr ? std::strtoul(chosen, nullptr, 10) : 0, std::getenv("SMARTIO_MUTANT_TRACE")};
  }();
  return found;
}

/// True the first time; there is room for far more than there are mutants.
inline bool first_time(std::uint32_t number) {
  static std::array<std::atomic<std::uint32_t>, 4096> seen{};
  for (std::size_t at = number % seen.size();; at = (at + 1) % seen.size()) {
    std::uint32_t found = 0;
    if (seen[at].compare_exchange_strong(found, number)) return true;
    if (found == number) return false;
  }
}

inline void record(std::uint32_t number, const char* path) {
  const int kept = errno;
  char line[16];
  const int length = std::snprintf(line, sizeof line, "%u\n", number);
  const int file = ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file >= 0) {
    [[maybe_unused]] const auto written = ::write(file, line, static_cast<std::size_t>(length));
    ::close(file);
  }
  errno = kept;
}

inline bool asked(std::uint32_t number) {
  const auto& now = settings();
  if (now.trace != nullptr && first_time(number)) record(number, now.trace);
  return now.chosen == number;
}

} // namespace mutants

constexpr bool mutant(std::uint32_t number) {
  if (std::is_constant_evaluated()) return false;
  return mutants::asked(number);
}
