// smartio_tool: the command line to a host's smartiod. Parses, dispatches by the table of commands, and turns a failure
// into one sentence and an exit code.
#include "arguments.hpp"
#include "commands.hpp"
#include "exit_code.hpp"
#include "output.hpp"
#include "print.hpp"
#include "result.hpp"
#include "session.hpp"

namespace smartio::tool {
namespace {

/// Errors of the system need its own words for the reason; all others are sentences already.
std::string sentence(const Error& error) {
  const bool whole = error.code.category() != std::system_category() && !error.context.empty();
  return printable(whole ? error.context : to_string(error));
}

int report(const Error& error, bool json) {
  const int code = exit_code(error);
  const std::string text = sentence(error);
  say("smartio_tool: {}\n", text);
  // Where standard output is what failed there is nobody left to tell.
  if (json) (void)write_output(json_line({{"error", {{"exit", code}, {"message", text}}}}));
  return code;
}

Result<int> print_text(const char* name, const std::string& text, bool json) {
  TRY(write_output(json ? json_line({{name, text}}) : text + (text.ends_with('\n') ? "" : "\n")));
  return 0;
}

Result<int> print_help(const Arguments& arguments) {
  const auto& words = arguments.words;
  const bool of_one = !words.empty() && (words.front() != "help" || words.size() > 1);
  if (!of_one) return print_text("help", help(), arguments.json);
  const Command* command = TRY(find_command(words.front() == "help" ? words[1] : words.front()));
  return print_text("help", help(*command), arguments.json);
}

Result<int> dispatch(int argc, const char* const* argv) {
  TRY(prepare_standard_streams());
  Arguments arguments = TRY(parse_arguments(argc, argv));
  if (arguments.version) return print_text("version", "smartio_tool " SMARTIO_VERSION, arguments.json);
  if (arguments.help) return print_help(arguments);
  const Command* command = TRY(find_command(arguments));
  if (command->run == nullptr) return print_help(arguments);
  Session session(std::move(arguments));
  TRY(command->run(session));
  return session.exit_code();
}

} // namespace
} // namespace smartio::tool

int main(int argc, char** argv) {
  const auto done = smartio::tool::dispatch(argc, argv);
  return done ? *done : smartio::tool::report(done.error(), smartio::tool::wants_json(argc, argv));
}
