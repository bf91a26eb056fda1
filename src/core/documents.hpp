// The documents that monitoring reads: list, status, show, filters. Their schemas are in tools/schema. Pure functions
// of what a node knows.
#pragma once

#include "json.hpp"
#include "view.hpp"

namespace smartio::core {

/// As text, or an error if it is longer than what can be sent.
Result<std::string> list_document(const View& view);
Result<std::string> status_document(const View& view);
Json filters_document(const View& view);
Result<Json> show_document(const View& view, DeviceId id); ///< Errc::no_such_device

} // namespace smartio::core
