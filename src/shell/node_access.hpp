// How Node reaches a node: the one in this process, or the host's smartiod.
#pragma once

#include "control_client.hpp"
#include "shell.hpp"

#include <memory>
#include <mutex>
#include <thread>

namespace smartio::detail {

/// Thread-safe.
struct Node {
  virtual ~Node() = default;
  virtual Result<core::Json> call(const std::string& command, const core::Json& arguments) = 0;
  /// As call(), in a lifetime of its own: loans made by it end when the second value is released.
  virtual Result<std::pair<core::Json, std::shared_ptr<void>>> call_and_hold(const std::string& command,
                                                                             const core::Json& arguments) = 0;
  virtual Result<void> monitor(std::function<bool(std::string_view)> event) = 0;
  virtual Result<void> stop() { return {}; }

  NodeId id{};
  std::chrono::milliseconds timeout{};
};

Result<std::shared_ptr<Node>> start_node(const Config& config);
Result<std::shared_ptr<Node>> attach_node(const std::string& run_dir);

} // namespace smartio::detail
