// A node in this process: the shell on a thread of its own.
#include "node_access.hpp"

#include "result.hpp"

#include <atomic>
#include <csignal>
#include <future>

namespace smartio::detail {
namespace {

/// Signals are for the threads of the program that embeds the node.
void run(Shell& shell) {
  ::sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  shell.run();
}

struct StartedNode final : Node {
  explicit StartedNode(const std::shared_ptr<Shell>& opened) : shell(opened), thread([opened] { run(*opened); }) {
    id = shell->id();
  }
  ~StartedNode() override {
    if (is_called_back()) {
      shell->stop();
      thread.detach(); // which has the shell as long as it runs
    } else {
      static_cast<void>(stop());
    }
  }

  Result<void> stop() override {
    if (is_called_back()) return fail(Errc::wrong_state, "a node cannot be stopped from within a callback of its own");
    const std::lock_guard lock(stopping);
    if (!stopped.exchange(true)) {
      shell->stop();
      thread.join();
    }
    return shell->outcome();
  }

  /// Within a callback of this node, on the thread that would have to answer.
  bool is_called_back() const { return std::this_thread::get_id() == shell_thread; }

  Result<core::Json> call_as(core::ControlId control, const std::string& command, const core::Json& arguments) {
    if (is_called_back())
      return fail(Errc::wrong_state, "'{}' was called from within a callback of this node, which cannot wait for it",
                  command);
    if (stopped) return fail(Errc::peer_down, "the node has been stopped");
    auto promise = std::make_shared<std::promise<Result<core::Json>>>();
    auto answer = promise->get_future();
    shell->command(control, command, arguments,
                   [promise](Result<core::Json> result, const std::string&) { promise->set_value(std::move(result)); });
    if (answer.wait_for(timeout) != std::future_status::ready)
      return fail(Errc::timed_out, "'{}' was not done within {} ms", command, timeout.count());
    auto result = answer.get();
    const auto* text = result ? result->get_ptr<const std::string*>() : nullptr;
    return text == nullptr ? std::move(result) : core::parse_object(*text);
  }

  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    return call_as(0, command, arguments);
  }

  Result<std::pair<core::Json, std::shared_ptr<void>>> call_and_hold(const std::string& command,
                                                                     const core::Json& arguments) override {
    const auto control = shell->new_control();
    std::shared_ptr<void> hold(nullptr, [opened = shell, control](void*) { opened->control_closed(control); });
    auto answer = TRY(call_as(control, command, arguments));
    return std::pair(std::move(answer), std::move(hold));
  }

  Result<void> monitor(std::function<bool(std::string_view)> event) override {
    if (stopped) return fail(Errc::peer_down, "the node has been stopped");
    shell->watch([event = std::move(event)](const std::string& text) { return event(text); });
    return {};
  }

  std::shared_ptr<Shell> shell;
  std::thread thread;
  const std::thread::id shell_thread = thread.get_id(); ///< joining changes what `thread` says
  std::mutex stopping;
  std::atomic<bool> stopped = false;
};

} // namespace

Result<std::shared_ptr<Node>> start_node(const Config& config) {
  auto shell = TRY(Shell::open(config));
  auto node = std::make_shared<StartedNode>(std::move(shell));
  node->timeout = config.timeout;
  return node;
}

} // namespace smartio::detail
