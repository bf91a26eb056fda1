// How Node reaches a node: the one in this process, or the host's smartiod.
#pragma once

#include "control_client.hpp"
#include "event_queue.hpp"
#include "shell.hpp"

#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace smartio::detail {

/// Takes commands, from any thread. Loans that it asked for end with it.
struct Caller {
  virtual ~Caller() = default;
  virtual Result<core::Json> call(const std::string& command, const core::Json& arguments) = 0;
  virtual Result<void> can_call() const = 0; ///< Errc::wrong_state: from within a callback of the node
};

/// Thread-safe.
struct Node : Caller {
  virtual Result<std::shared_ptr<Caller>> new_caller() = 0;
  virtual Result<std::unique_ptr<EventSource>> events() = 0;
  virtual Result<void> stop() { return {}; }

  NodeId id{};
  std::chrono::milliseconds timeout{};
};

Result<std::shared_ptr<Node>> start_node(const Config& config);
Result<std::shared_ptr<Node>> attach_node(const std::string& run_dir);

} // namespace smartio::detail
