// What a model says while it serves its device: that it is ready, and its counters.
#pragma once

#include <string_view>

namespace smartio::sim {

/// `line` and a newline on standard output. Where that fails standard error has the reason, and the device goes on:
/// it is there for its client.
void announce(std::string_view line);

} // namespace smartio::sim
