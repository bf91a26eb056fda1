// What people and state files name: addresses of devices, and options with their values.
#pragma once

#include "result.hpp"

#include <string>
#include <string_view>

namespace smartio::core {

inline constexpr std::string_view user_prefix = "vfio-user:"; ///< of a device that a process serves; its socket follows

/// A BDF in full, or vfio-user:PATH with an absolute path: what the shell can open. Anything else it is never given.
bool is_address(std::string_view text);

/// The same with a socket's path that fits, or Errc::bad_request with what is wrong.
Result<std::string> parse_address(const std::string& text);

bool is_option(const std::string& name); ///< that `config` knows

/// Errc::bad_request with what may be given. An option that is not known may have any value.
Result<void> check_option(const std::string& name, const std::string& value);

} // namespace smartio::core
