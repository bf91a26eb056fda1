// The host's smartiod, over its control socket.
#include "node_access.hpp"

#include "quiet_thread.hpp"
#include "result.hpp"

#include <sys/socket.h>

namespace smartio::detail {
namespace {

// A borrow or a take-back waits for another node, so a call may take longer than one device operation.
constexpr std::chrono::seconds call_timeout{15};

struct Connection final : Caller {
  explicit Connection(ControlClient opened) : client(std::move(opened)) {}
  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    const std::lock_guard lock(mutex);
    return client.call(command, arguments);
  }
  Result<void> can_call() const override { return {}; }
  std::mutex mutex;
  ControlClient client;
};

/// A thread that reads what smartiod tells. Joined at its end.
struct Reader {
  static Result<std::shared_ptr<Reader>> start(ControlClient client, std::shared_ptr<EventQueue> queue) {
    auto reader = std::make_shared<Reader>();
    reader->socket = TRY(duplicate(client.fd()));
    reader->thread = TRY(quiet_thread([client = std::move(client), queue = std::move(queue)]() mutable {
      core::Json event;
      auto more = client.next_event(event);
      for (; more && *more; more = client.next_event(event)) queue->push(std::move(event));
      queue->end({make_error_code(Errc::peer_down), "smartiod has ended, or the connection to it"});
    }));
    return reader;
  }
  ~Reader() {
    if (!thread.joinable()) return;
    ::shutdown(socket.get(), SHUT_RDWR);
    thread.join();
  }
  Fd socket; ///< a copy, which stays when the thread closes its own
  std::thread thread;
};

struct AttachedNode final : Node {
  explicit AttachedNode(std::string directory) : run_dir(std::move(directory)) {}

  Result<ControlClient> connect() const { return ControlClient::connect(run_dir, call_timeout); }

  /// A connection that failed, or whose daemon was restarted, is replaced.
  Result<core::Json> call(const std::string& command, const core::Json& arguments) override {
    const std::lock_guard lock(mutex);
    if (!client || !client->is_open()) client.emplace(TRY(connect()));
    return client->call(command, arguments);
  }

  Result<std::shared_ptr<Caller>> new_caller() override { return std::make_shared<Connection>(TRY(connect())); }

  Result<std::unique_ptr<EventSource>> events() override {
    auto queue = std::make_shared<EventQueue>(TRY(make_eventfd()));
    auto own = TRY(connect());
    TRY(own.call("monitor", core::Json::object()));
    queue->start(
        TRY(own.call("status", core::Json::object()))); // events that came before it are among those to be read
    auto reader = TRY(Reader::start(std::move(own), queue));
    return std::make_unique<EventSource>(std::move(queue), std::move(reader));
  }

  const std::string run_dir;
  Result<void> can_call() const override { return {}; }

  std::mutex mutex; ///< of the client
  std::optional<ControlClient> client;
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
