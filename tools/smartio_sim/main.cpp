// smartio_sim: device models behind vfio-user sockets, for machines without such devices. Finds the model; the rest is
// the model's.
#include "model.hpp"
#include "output.hpp"
#include "result.hpp"

#include <algorithm>

namespace smartio::sim {
namespace {

constexpr const Model* models[] = {&ntb_model, &nvme_model};

std::string usage() {
  std::string text = "Usage: smartio_sim MODEL OPTIONS...\n\nModels:\n";
  for (const Model* model : models) text += fmt::format("  {:8}{}\n", model->name, model->summary);
  return text + "\nsmartio_sim MODEL --help lists the options of one.\n";
}

bool asks_for_help(const std::string& word) { return word == "--help" || word == "-h"; }

int exit_code(const std::error_code& code) {
  if (code == make_error_code(Errc::bad_request)) return 2;
  if (code == make_error_code(Errc::busy)) return 4;
  return code == std::errc::permission_denied ? 5 : 1;
}

int report(const Error& error) {
  say("smartio_sim: {}\n", to_string(error));
  return exit_code(error.code);
}

int print(const std::string& text) {
  const auto written = write_output(text);
  return written ? 0 : report(written.error());
}

int run(const std::vector<std::string>& words) {
  if (const auto prepared = prepare_standard_streams(); !prepared) return report(prepared.error());
  if (!words.empty() && (asks_for_help(words[0]) || words[0] == "help")) return print(usage());
  if (!words.empty() && words[0] == "--version") return print("smartio_sim " SMARTIO_VERSION "\n");
  if (words.empty())
    return report(fail(Errc::bad_request, "No model is named; smartio_sim --help lists them.").error());
  const auto* const* found = std::find_if(std::begin(models), std::end(models),
                                          [&words](const Model* model) { return words[0] == model->name; });
  if (found == std::end(models))
    return report(fail(Errc::bad_request, "There is no model {}; smartio_sim --help lists them.", words[0]).error());
  const std::vector<std::string> arguments(words.begin() + 1, words.end());
  if (std::any_of(arguments.begin(), arguments.end(), asks_for_help)) return print((*found)->help());
  const auto done = (*found)->run(arguments);
  return done ? 0 : report(done.error());
}

} // namespace
} // namespace smartio::sim

int main(int argc, char** argv) { return smartio::sim::run({argv + std::min(argc, 1), argv + argc}); }
