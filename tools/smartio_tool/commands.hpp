// The table of commands: it drives parsing, help and dispatch.
#pragma once

#include "arguments.hpp"

#include <smartio/error.hpp>

#include <span>
#include <string>
#include <string_view>

namespace smartio::tool {

class Session;

struct Command {
  std::string_view name;
  std::string_view arguments; ///< as help shows them; an option the command takes stands in here as "[--name"
  unsigned least, most;       ///< number of words after the name
  std::string_view summary;   ///< one line
  std::string_view details;   ///< what else help says: lines, each ended; may be empty
  Result<void> (*run)(Session&);
};

std::span<const Command> commands();

/// The command that `arguments` name, if it takes these words and options; Errc::bad_request otherwise.
Result<const Command*> find_command(const Arguments& arguments);
Result<const Command*> find_command(std::string_view name);

std::string help();               ///< of the whole tool
std::string help(const Command&); ///< of one command

} // namespace smartio::tool
