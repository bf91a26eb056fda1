// A bridge to another host, taken into use as a path. All that what opens one has to know of ntb/; left out of builds
// without bridges (the option `bridge`), where no_bridge.cpp stands for it.
#pragma once

#include "path.hpp"

#include <boost/asio/io_context.hpp>
#include <chrono>

namespace smartio::fabric {

Result<void> can_open_bridges(); ///< Errc::wrong_state in a build without

/// Takes the bridge behind `device` into use, for node `node`; a peer silent for `silence` counts as dead. `changed` is
/// called when state() or used_bytes() of the path changes, from the event loop, never from within a call. The device
/// stays the caller's to close, after the path's close. Errors as ntb::Adapter's, of the
/// device's, and of can_open_bridges.
void open_bridge(boost::asio::io_context& io, std::shared_ptr<vfio::Device> device, NodeId node,
                 std::chrono::milliseconds silence, std::function<void()> changed,
                 std::move_only_function<void(Result<std::shared_ptr<Path>>)> opened);

} // namespace smartio::fabric
