// The host's smartiod, over its control socket.
#include "node_access.hpp"

#include "result.hpp"

#include <atomic>
#include <sys/socket.h>

namespace smartio::detail {
namespace {

// A borrow or a take-back waits for another node, so a call may take longer than one device operation.
constexpr std::chrono::seconds call_timeout{15};

struct AttachedNode final : Node {
  explicit AttachedNode(std::string directory) : run_dir(std::move(directory)) {}
  ~AttachedNode() override {
    if (watched) ::shutdown(watched.get(), SHUT_RDWR);
    if (watcher.get_id() == std::this_thread::get_id()) // its callback had the last copy of the node
      watcher.detach();
    else if (watcher.joinable())
      watcher.join();
  }

  /// A connection that failed, or whose daemon was restarted, is replaced.
  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    const std::lock_guard lock(mutex);
    if (!client || !client->is_open()) client.emplace(TRY(ControlClient::connect(run_dir, call_timeout)));
    return client->call(command, arguments);
  }

  Result<std::pair<core::Json, std::shared_ptr<void>>> call_and_hold(const std::string& command,
                                                                     const core::Json& arguments) override {
    auto own = std::make_shared<ControlClient>(TRY(ControlClient::connect(run_dir, call_timeout)));
    auto answer = TRY(own->call(command, arguments));
    return std::pair(std::move(answer), std::shared_ptr<void>(std::move(own)));
  }

  Result<void> monitor(std::function<bool(std::string_view)> event) override {
    const std::lock_guard lock(mutex);
    if (watcher.joinable() && !*over) return fail(Errc::busy, "this node is monitored already");
    auto own = TRY(ControlClient::connect(run_dir, call_timeout));
    TRY(own.call("monitor", core::Json::object()));
    auto copy = TRY(duplicate(own.fd()));
    if (watcher.joinable()) watcher.join();
    watched = std::move(copy);
    over = std::make_shared<std::atomic<bool>>(false);
    watcher = std::thread([own = std::move(own), event = std::move(event), ended = over]() mutable {
      core::Json json;
      while (own.next_event(json).value_or(false) &&
             event(json.dump(-1, ' ', false, core::Json::error_handler_t::replace)))
        ;
      *ended = true;
    });
    return {};
  }

  std::string run_dir;
  std::mutex mutex; ///< of all below
  std::optional<ControlClient> client;
  std::thread watcher;
  std::shared_ptr<std::atomic<bool>> over; ///< the watcher will not call any more
  Fd watched;                              ///< its socket: a copy, which stays when the watcher closes its own
};

} // namespace

Result<std::shared_ptr<Node>> attach_node(const std::string& run_dir) {
  auto node = std::make_shared<AttachedNode>(run_dir);
  const auto self = TRY(node->call("node", core::Json::object()));
  node->id = TRY(core::get_node(self, "node"));
  node->timeout = std::chrono::milliseconds{4000};
  return node;
}

} // namespace smartio::detail
