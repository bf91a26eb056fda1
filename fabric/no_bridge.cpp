#include "bridge.hpp"
#include "result.hpp"

namespace smartio::fabric {

Result<void> can_open_bridges() { return fail(Errc::wrong_state, "this smartio was built without bridges"); }

void open_bridge(boost::asio::io_context& /*io*/, std::shared_ptr<vfio::Device> /*device*/, NodeId /*node*/,
                 std::chrono::milliseconds /*silence*/, std::function<void()> /*changed*/,
                 std::move_only_function<void(Result<std::shared_ptr<Path>>)> opened) {
  opened(std::unexpected(can_open_bridges().error()));
}

} // namespace smartio::fabric
