#include "bridge.hpp"
#include "ntb/peer.hpp"

namespace smartio::fabric {

Result<void> can_open_bridges() { return {}; }

void open_bridge(boost::asio::io_context& io, std::shared_ptr<vfio::Device> device, NodeId node,
                 std::chrono::milliseconds silence, std::function<void()> changed,
                 std::move_only_function<void(Result<std::shared_ptr<Path>>)> opened) {
  ntb::Peer::open(io, std::move(device), {.node = node, .silence = silence}, std::move(changed), std::move(opened));
}

} // namespace smartio::fabric
