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
  AttachedNode(std::string directory, ControlClient connected)
      : run_dir(std::move(directory)), client(std::move(connected)) {}
  ~AttachedNode() override {
    if (watching) ::shutdown(watched, SHUT_RDWR);
    if (watcher.joinable()) watcher.join();
  }

  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    const std::lock_guard lock(mutex);
    return client.call(command, arguments);
  }

  Result<std::pair<core::Json, std::shared_ptr<void>>> call_and_hold(const std::string& command,
                                                                     const core::Json& arguments) override {
    auto own = std::make_shared<ControlClient>(TRY(ControlClient::connect(run_dir, call_timeout)));
    auto answer = TRY(own->call(command, arguments));
    return std::pair(std::move(answer), std::shared_ptr<void>(std::move(own)));
  }

  Result<void> monitor(std::function<bool(std::string_view)> event) override {
    const std::lock_guard lock(mutex);
    if (watcher.joinable()) return fail(Errc::busy, "this node is monitored already");
    auto own = TRY(ControlClient::connect(run_dir, call_timeout));
    TRY(own.call("monitor", core::Json::object()));
    watched = own.fd();
    watching = true;
    watcher = std::thread([this, own = std::move(own), event = std::move(event)]() mutable {
      core::Json json;
      while (own.next_event(json).value_or(false) &&
             event(json.dump(-1, ' ', false, core::Json::error_handler_t::replace)))
        ;
      watching = false;
    });
    return {};
  }

  std::string run_dir;
  std::mutex mutex;
  ControlClient client;
  std::thread watcher;
  std::atomic<bool> watching = false;
  int watched = -1;
};

} // namespace

Result<std::shared_ptr<Node>> attach_node(const std::string& run_dir) {
  auto client = TRY(ControlClient::connect(run_dir, call_timeout));
  auto node = std::make_shared<AttachedNode>(run_dir, std::move(client));
  const auto self = TRY(node->call("node", core::Json::object()));
  node->id = TRY(core::get_node(self, "node"));
  node->timeout = std::chrono::milliseconds{4000};
  return node;
}

} // namespace smartio::detail
