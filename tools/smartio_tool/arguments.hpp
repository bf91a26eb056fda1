// The command line as values. Knows every option there is; which command takes which is left to the table of commands.
#pragma once

#include <smartio/error.hpp>

#include <optional>
#include <string>
#include <vector>

namespace smartio::tool {

struct Arguments {
  std::vector<std::string> words;   ///< what is no option: the command and its arguments
  std::vector<std::string> options; ///< names of the options of commands that were given, without dashes

  std::string run_dir; ///< --run-dir, else SMARTIO_RUN_DIR, else /run/smartio
  bool json = false;
  bool yes = false;
  bool help = false;
  bool version = false;

  std::string address; ///< empty: not given
  std::string owner;   ///< empty: not given
  bool wait = false;
  bool force = false;
  bool shared = false;
  bool without_reset = false;
  std::string ids;  ///< -d, as lspci takes it
  std::string slot; ///< -s, as lspci takes it
  bool raw = false;
  bool emulated = false;
  std::vector<std::string> for_lspci; ///< what stands behind `lspci DEVICE` and is no long option
  std::vector<std::string> to_run;    ///< COMMAND... of `run DEVICE [--] COMMAND...`
};

/// Options may stand before or after the command. Errc::bad_request with a sentence for anything unknown or incomplete.
Result<Arguments> parse_arguments(int argc, const char* const* argv);

/// Whether --json was asked for, even where the rest of the command line cannot be understood. What `run` runs may have
/// options of its own.
bool wants_json(int argc, const char* const* argv);

} // namespace smartio::tool
