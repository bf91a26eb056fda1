// Loans of programs.
#pragma once

#include "node_access.hpp"

#include <smartio/device.hpp>

namespace smartio::detail {

/// Node::borrow. The device keeps the node until it is given back.
Result<Device> borrow(const std::shared_ptr<Node>& node, DeviceId id, const Borrow& how);

} // namespace smartio::detail
