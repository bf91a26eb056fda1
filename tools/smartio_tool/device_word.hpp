// DEVICE as people type it.
#pragma once

#include <smartio/error.hpp>

#include <string>

namespace smartio::tool {

/// `word` as the daemon takes it: an id, a PCI address as it was typed, or vfio-user:PATH with the path made absolute,
/// since a relative one is relative to here and not to the daemon. Errc::bad_request if it is none of these.
Result<std::string> parse_device(const std::string& word);

} // namespace smartio::tool
