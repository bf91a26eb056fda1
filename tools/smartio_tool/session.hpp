// One run of the tool: the command line, the connection to smartiod, and what goes to standard output.
#pragma once

#include "arguments.hpp"
#include "control_client.hpp"

#include <smartio/error.hpp>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smartio::tool {

class Session {
public:
  explicit Session(Arguments arguments) : arguments_(std::move(arguments)) {}

  const Arguments& arguments() const noexcept { return arguments_; }
  const std::string& command() const noexcept { return arguments_.words.front(); }
  /// Argument `index` of the command, from 1; empty where not given.
  std::string word(std::size_t index) const;

  /// Sends one command to smartiod (connecting first if need be) and gives the result. A note goes to standard error.
  Result<nlohmann::json> call(std::string_view command, const nlohmann::json& request);

  /// Sends this run's command and prints the result: the document with --json, otherwise what `print` makes of it.
  Result<void> perform(const nlohmann::json& request, std::string (*print)(const nlohmann::json& result));

  /// What the program ends with if nothing fails.
  int exit_code() const noexcept { return exit_code_; }
  void set_exit_code(int code) noexcept { exit_code_ = code; }

  /// Prints each event at once, until the daemon ends.
  Result<void> print_events();

private:
  Arguments arguments_;
  int exit_code_ = 0;
  std::optional<ControlClient> client_;
};

/// `document` with schema_version, as one line.
std::string json_line(nlohmann::json document);

} // namespace smartio::tool
