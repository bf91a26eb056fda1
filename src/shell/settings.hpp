// What a program configures and commands name, looked at and completed before anything else sees it.
#pragma once

#include "view.hpp"

#include <smartio/node.hpp>
#include <string>

namespace smartio {

/// Errc::bad_request: a value that is none. smartiod has looked at its own; a program may have put anything there.
Result<void> check(const Config& config);

/// Directories are absolute: clients that are elsewhere are told of paths in them, and a program may change its working
/// directory. The log never throws.
Result<Config> completed(Config config);

/// Of a node that starts now.
Result<core::Settings> settings_of(const Config& config);

/// What a command names of this host's devices, in full. Not core's business: libpci reads it.
Result<void> complete_addresses(const std::string& command, core::Json& arguments);

} // namespace smartio
