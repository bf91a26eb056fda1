// A node in this process: the shell on a thread of its own.
#include "node_access.hpp"

#include "result.hpp"

#include <csignal>
#include <future>

namespace smartio::detail {
namespace {

struct StartedNode final : Node {
  explicit StartedNode(std::unique_ptr<Shell> opened) : shell(std::move(opened)), thread([this] { run(); }) {
    id = shell->id();
  }
  ~StartedNode() override {
    shell->stop();
    thread.join();
  }

  /// Signals are for the threads of the program that embeds the node.
  void run() {
    ::sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    shell->run();
  }

  Result<core::Json> call_as(core::ControlId control, const std::string& command, const core::Json& arguments) {
    auto promise = std::make_shared<std::promise<Result<core::Json>>>();
    auto answer = promise->get_future();
    shell->command(control, command, arguments,
                   [promise](Result<core::Json> result, const std::string&) { promise->set_value(std::move(result)); });
    return answer.get();
  }

  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    return call_as(0, command, arguments);
  }

  Result<std::pair<core::Json, std::shared_ptr<void>>> call_and_hold(const std::string& command,
                                                                     const core::Json& arguments) override {
    const auto control = shell->new_control();
    auto answer = TRY(call_as(control, command, arguments));
    std::shared_ptr<void> hold(nullptr, [this, control](void*) { shell->control_closed(control); });
    return std::pair(std::move(answer), std::move(hold));
  }

  Result<void> monitor(std::function<bool(std::string_view)> event) override {
    shell->watch([event = std::move(event)](const std::string& text) { return event(text); });
    return {};
  }

  std::unique_ptr<Shell> shell;
  std::thread thread;
};

} // namespace

Result<std::shared_ptr<Node>> start_node(const Config& config) {
  auto shell = TRY(Shell::open(config));
  auto node = std::make_shared<StartedNode>(std::move(shell));
  node->timeout = config.timeout;
  return node;
}

} // namespace smartio::detail
