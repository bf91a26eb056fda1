// A configuration space as lspci itself prints it.
#pragma once

#include <smartio/error.hpp>

#include <string>
#include <vector>

namespace smartio::tool {

/// Runs lspci (package pciutils) with `options` on `hex`, two digits a byte, and gives what it printed. `address` is
/// the BDF that it prints; for a device that has none, 00:00.0. Fails with lspci's own words when it does.
Result<std::string> render(const std::string& address, const std::string& hex, const std::vector<std::string>& options);

} // namespace smartio::tool
