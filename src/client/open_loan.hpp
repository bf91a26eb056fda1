// Opening the device of a loan.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <smartio/device.hpp>
#include <string>

namespace smartio {

/// As open_device, on a socket path, of a device that `lender` lends, if any does. `keep_alive` is released when the
/// device and everything made from it are gone and its connection is closed; at once if this fails.
Result<Device> open_loan(const std::string& socket_path, std::optional<NodeId> lender,
                         std::chrono::milliseconds timeout, std::shared_ptr<void> keep_alive);

} // namespace smartio
