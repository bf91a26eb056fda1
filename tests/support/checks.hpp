// Small things that tests of results ask for.
#pragma once

#include <fstream>
#include <poll.h>
#include <smartio/error.hpp>
#include <string>
#include <string_view>

namespace testing {

template <class T> bool fails_with(const smartio::Result<T>& result, smartio::Errc code) {
  return !result && result.error().code == make_error_code(code);
}
template <class T> bool fails_with(const smartio::Result<T>& result, int number) {
  return !result && result.error().code == std::error_code(number, std::system_category());
}

inline bool readable(int fd, int milliseconds = 0) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, milliseconds) == 1 && (waiting.revents & POLLIN) != 0;
}

/// How many mappings of this process have `name` in their path.
inline unsigned mappings_named(std::string_view name) {
  std::ifstream maps("/proc/self/maps");
  unsigned found = 0;
  for (std::string line; std::getline(maps, line);) found += line.find(name) != std::string::npos;
  return found;
}

} // namespace testing
