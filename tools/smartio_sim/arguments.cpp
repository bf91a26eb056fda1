#include "arguments.hpp"

#include "result.hpp"
#include "text.hpp"

namespace smartio::sim {

namespace po = boost::program_options;

Result<po::variables_map> parse(const Model& model, const std::vector<std::string>& arguments,
                                const po::options_description& options, std::initializer_list<const char*> required) {
  // The library tells of bad input by exceptions only.
  try {
    const auto style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::variables_map values;
    po::store(po::command_line_parser(arguments)
                  .options(options)
                  .positional({})
                  .style(style)
                  .extra_parser(hyphenated_option)
                  .run(),
              values);
    for (const char* name : required) {
      if (!values.contains(name) || values[name].as<std::string>().empty())
        return fail(Errc::bad_request, "--{} is missing; smartio_sim {} --help explains.", name, model.name);
    }
    return values;
  } catch (const po::error& error) {
    return fail(Errc::bad_request, "{}; smartio_sim {} --help explains.", error.what(), model.name);
  }
}

} // namespace smartio::sim
