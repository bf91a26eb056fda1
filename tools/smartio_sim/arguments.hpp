// The command line of a model.
#pragma once

#include "model.hpp"

#include <boost/program_options.hpp>
#include <initializer_list>

namespace smartio::sim {

/// Errc::bad_request, and where help is, for what `options` do not have or cannot take, and for one of `required` that
/// is missing or empty.
Result<boost::program_options::variables_map> parse(const Model& model, const std::vector<std::string>& arguments,
                                                    const boost::program_options::options_description& options,
                                                    std::initializer_list<const char*> required);

} // namespace smartio::sim
