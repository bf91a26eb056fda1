// `run`: a command of somebody else's, for as long as a device is borrowed for it.
#pragma once

#include <smartio/error.hpp>

#include <string>
#include <vector>

namespace smartio::tool {

/// `words` with every `{socket}` in them replaced by `socket`.
std::vector<std::string> with_socket(std::vector<std::string> words, std::string_view socket);

/// Runs the program that `words` (not empty) name, found by PATH, with this program's standard streams; blocks until it
/// ends. Signals sent to this program go on to it; those of a terminal reach both anyway. Its exit code, 128 and the
/// signal if one ended it (as shells tell), 127 if there is no such program and 126 if it cannot be started (as env
/// tells), with a sentence on standard error. An error is one of waiting: the program may still run then.
Result<int> run_command(std::vector<std::string> words);

} // namespace smartio::tool
