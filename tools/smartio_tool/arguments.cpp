#include "arguments.hpp"

#include "result.hpp"
#include "text.hpp"

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
      "force", flag(arguments.force))("without-reset", flag(arguments.without_reset))("shared", flag(arguments.shared))(
      ",d", text(arguments.ids))(",s", text(arguments.slot))("raw", flag(arguments.raw))("emulated",
                                                                                         flag(arguments.emulated));
  all.add_options()("word", po::value(&arguments.words));
  return all;
}

void note_given(const po::variables_map& values, Arguments& arguments) {
  for (const auto& [name, value] : values)
    if (!value.defaulted() && std::ranges::find(global_options, name) == global_options.end())
      arguments.options.push_back(name.substr(name.find_first_not_of('-')));
}

using Words = std::vector<std::string>;

bool is_option(const std::string& word) { return word.starts_with('-') && word.size() > 1; }
bool takes_value(const std::string& word) {
  const auto option = hyphenated(word);
  return option == "--run-dir" || option == "--owner";
}

/// The index behind the first `count` words that are neither options nor their values.
std::size_t behind(const Words& words, unsigned count) {
  std::size_t i = 0;
  for (; i < words.size() && count > 0; ++i) {
    if (takes_value(words[i]))
      ++i;
    else if (!is_option(words[i]))
      --count;
  }
  return std::min(i, words.size());
}

bool is_command(const Words& words, std::string_view name) {
  const std::size_t first = behind(words, 1);
  return first > 0 && words[first - 1] == name;
}

/// Takes off what is meant for lspci: all that follows the second word, but for long options, which lspci has none of.
Words take_for_lspci(Words& words) {
  if (!is_command(words, "lspci")) return {};
  Words ours, rest;
  const std::size_t device = behind(words, 2);
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool is_ours = i < device || words[i].starts_with("--");
    (is_ours ? ours : rest).push_back(words[i]);
    if (is_ours && takes_value(words[i]) && i + 1 < words.size()) ours.push_back(words[++i]);
  }
  words = std::move(ours);
  return rest;
}

/// Takes off what is to run: behind the second word from `--` on, or from the first word that is no option.
Words take_to_run(Words& words) {
  if (!is_command(words, "run")) return {};
  std::size_t at = behind(words, 2);
  while (at < words.size() && words[at] != "--" && is_option(words[at])) at += takes_value(words[at]) ? 2 : 1;
  const auto from = words.begin() + static_cast<std::ptrdiff_t>(std::min(at, words.size()));
  Words taken(from, words.end());
  words.erase(from, words.end());
  if (!taken.empty() && taken.front() == "--") taken.erase(taken.begin());
  return taken;
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
  Words given(argv + std::min(argc, 1), argv + argc);
  arguments.for_lspci = take_for_lspci(given);
  arguments.to_run = take_to_run(given);
  try {
    po::variables_map values;
    po::store(po::command_line_parser(given)
                  .options(all)
                  .positional(words)
                  .style(exact)
                  .extra_parser(hyphenated_option)
                  .run(),
              values);
    po::notify(values);
    note_given(values, arguments);
  } catch (const po::error& error) {
    return fail(Errc::bad_request, "{}: try 'smartio_tool help'", error.what());
  }
  if (arguments.run_dir.empty()) arguments.run_dir = default_run_dir();
  return arguments;
}

bool wants_json(int argc, const char* const* argv) {
  Words given(argv + std::min(argc, 1), argv + argc);
  take_to_run(given);
  return std::ranges::find(given, "--json") != given.end();
}

} // namespace smartio::tool
