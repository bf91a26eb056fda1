// What people and state files name: addresses of devices, and options with their values.
#pragma once

#include "result.hpp"

#include <string>
#include <string_view>
#include <utility>

namespace smartio::core {

inline constexpr std::string_view user_prefix = "vfio-user:"; ///< of a device that a process serves; its socket follows

/// A BDF in full, as the kernel writes it whatever case it was given in, or vfio-user:PATH with an absolute path that
/// fits a socket's address: what the shell can open. Otherwise Errc::bad_request with what is wrong.
Result<std::string> parse_address(const std::string& text);

/// HOST:PORT of a node. Errc::bad_request: it is none.
Result<void> check_endpoint(const std::string& text);

/// "ADDRESS:PORT" in its parts, without the brackets of an IPv6 address; no port: "".
std::pair<std::string, std::string> split_endpoint(const std::string& text);
/// One to listen on: a numeric address or localhost, and a port, 0 for any. Errc::bad_request.
Result<void> check_listen(const std::string& text);

bool is_option(const std::string& name); ///< that `config` knows

/// Its value, as it is kept, or Errc::bad_request with what may be given. An option that is not known may have any.
Result<std::string> parse_option(const std::string& name, const std::string& value);

} // namespace smartio::core
