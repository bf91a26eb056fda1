// What commands print.
#pragma once

#include "bench.hpp"

#include <string>

/// A few lines for people, or one JSON document; each ends with a newline.
std::string identity_report(const nvme::Identity& identity, bool json);
std::string bench_report(const nvme::Measured& measured, const nvme::Workload& workload, bool interrupts, bool json);
std::string error_report(int exit_code, const std::string& message); ///< JSON
