// A node in this process: the shell on a thread of its own.
#include "node_access.hpp"

#include "quiet_thread.hpp"
#include "result.hpp"

#include <atomic>
#include <future>

namespace smartio::detail {
namespace {

struct StartedNode final : Node, std::enable_shared_from_this<StartedNode> {
  StartedNode(std::shared_ptr<Shell> opened, std::thread running)
      : shell(std::move(opened)), thread(std::move(running)) {
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

  Result<void> can_call() const override {
    if (!is_called_back()) return {};
    return fail(Errc::wrong_state, "a node cannot be called from within a callback of its own, which it waits for");
  }

  Result<core::Json> call_as(core::ControlId control, const std::string& command, const core::Json& arguments) {
    TRY(can_call());
    if (stopped) return fail(Errc::peer_down, "the node has been stopped");
    auto promise = std::make_shared<std::promise<Result<core::Json>>>();
    auto answer = promise->get_future();
    shell->command(control, command, arguments,
                   [promise](Result<core::Json> result, const std::string&) { promise->set_value(std::move(result)); });
    if (answer.wait_for(timeout) != std::future_status::ready && stopped)
      return fail(Errc::peer_down, "the node has been stopped");
    if (answer.wait_for(timeout.zero()) != std::future_status::ready)
      return fail(Errc::timed_out, "'{}' was not done within {} ms", command, timeout.count());
    auto result = answer.get();
    const auto* text = result ? result->get_ptr<const std::string*>() : nullptr;
    return text == nullptr ? std::move(result) : core::parse_object(*text);
  }

  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    return call_as(0, command, arguments);
  }

  Result<std::shared_ptr<Caller>> new_caller() override;

  /// What fills the queue ends with the node, and says so.
  Result<std::unique_ptr<EventSource>> events() override {
    auto queue = std::make_shared<EventQueue>(TRY(make_eventfd()));
    const std::shared_ptr<void> end(nullptr, [weak = std::weak_ptr(queue)](void*) {
      if (const auto left = weak.lock()) left->end({make_error_code(Errc::peer_down), "the node has ended"});
    });
    shell->watch([weak = std::weak_ptr(queue), end](const std::string& text) {
      const auto left = weak.lock();
      if (auto event = left ? core::parse_object(text) : fail(Errc::peer_down, "nobody listens"))
        left->push(std::move(*event));
      return left != nullptr;
    });
    queue->start(TRY(call("status", core::Json::object())));
    return std::make_unique<EventSource>(std::move(queue), nullptr);
  }

  std::shared_ptr<Shell> shell;
  std::thread thread;
  const std::thread::id shell_thread = thread.get_id(); ///< joining changes what `thread` says
  std::mutex stopping;
  std::atomic<bool> stopped = false;
};

/// Keeps the node.
struct Program final : Caller {
  explicit Program(std::shared_ptr<StartedNode> of) : node(std::move(of)), control(node->shell->new_control()) {}
  ~Program() override { node->shell->control_closed(control); }
  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    return node->call_as(control, command, arguments);
  }
  Result<void> can_call() const override { return node->can_call(); }
  const std::shared_ptr<StartedNode> node;
  const core::ControlId control;
};

Result<std::shared_ptr<Caller>> StartedNode::new_caller() { return std::make_shared<Program>(shared_from_this()); }

} // namespace

Result<std::shared_ptr<Node>> start_node(const Config& config) {
  std::shared_ptr<Shell> shell = TRY(Shell::open(config));
  auto thread = TRY(quiet_thread([shell] { shell->run(); }));
  auto node = std::make_shared<StartedNode>(std::move(shell), std::move(thread));
  node->timeout = config.timeout;
  return node;
}

} // namespace smartio::detail
