#include "arguments.hpp"

#include "result.hpp"

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <cstdlib>
#include <string_view>

namespace smartio::tool {
namespace {

namespace po = boost::program_options;

constexpr std::array global_options{"run-dir", "json", "yes", "help", "version", "word"};

po::options_description describe(Arguments& arguments) {
  po::options_description all;
  const auto flag = [](bool& value) { return po::bool_switch(&value); };
  const auto text = [](std::string& value) { return po::value<std::string>(&value); };
  all.add_options()("run-dir", text(arguments.run_dir))("json", flag(arguments.json))("yes", flag(arguments.yes))(
      "help,h", flag(arguments.help))("version", flag(arguments.version));
  all.add_options()("address", text(arguments.address))("owner", text(arguments.owner))("wait", flag(arguments.wait))(
      "force", flag(arguments.force))("shared", flag(arguments.shared))(",d", text(arguments.ids))(
      ",s", text(arguments.slot))("raw", flag(arguments.raw))("emulated", flag(arguments.emulated));
  all.add_options()("word", po::value(&arguments.words));
  return all;
}

void note_given(const po::variables_map& values, Arguments& arguments) {
  for (const auto& [name, value] : values)
    if (!value.defaulted() && std::ranges::find(global_options, name) == global_options.end())
      arguments.options.push_back(name.substr(name.find_first_not_of('-')));
}

/// Takes off what is meant for lspci: all that follows the second word, but for long options, which lspci has none of.
std::vector<std::string> take_for_lspci(std::vector<std::string>& words) {
  std::vector<std::string> ours, rest;
  unsigned count = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool is_option = words[i].starts_with('-') && words[i].size() > 1;
    if (count >= 2 && !words[i].starts_with("--")) {
      rest.push_back(words[i]);
      continue;
    }
    ours.push_back(words[i]);
    if (words[i] == "--run-dir" && i + 1 < words.size())
      ours.push_back(words[++i]);
    else if (!is_option && ++count == 1 && words[i] != "lspci")
      return {};
  }
  words = std::move(ours);
  return rest;
}

std::string default_run_dir() {
  const char* set = std::getenv("SMARTIO_RUN_DIR");
  return set != nullptr && *set != '\0' ? set : "/run/smartio";
}

} // namespace

Result<Arguments> parse_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  const po::options_description all = describe(arguments);
  const po::positional_options_description words = po::positional_options_description{}.add("word", -1);
  const int exact = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  std::vector<std::string> given(argv + std::min(argc, 1), argv + argc);
  arguments.for_lspci = take_for_lspci(given);
  try {
    po::variables_map values;
    po::store(po::command_line_parser(given).options(all).positional(words).style(exact).run(), values);
    po::notify(values);
    note_given(values, arguments);
  } catch (const po::error& error) {
    return fail(Errc::bad_request, "{}: try 'smartio_tool help'", error.what());
  }
  if (arguments.run_dir.empty()) arguments.run_dir = default_run_dir();
  return arguments;
}

bool wants_json(int argc, const char* const* argv) {
  return std::any_of(argv + 1, argv + argc, [](const char* word) { return std::string_view(word) == "--json"; });
}

} // namespace smartio::tool
