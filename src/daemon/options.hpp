// smartiod's command line and configuration file.
#pragma once

#include <optional>
#include <smartio/node.hpp>
#include <string>

namespace smartio {

/// The configuration; nullopt when help or the version was asked for and printed. Options of the command line win over
/// the file's. Errc::bad_request for anything malformed, in one line whatever the words and the file hold.
Result<std::optional<Config>> read_options(int argc, char** argv);

} // namespace smartio
