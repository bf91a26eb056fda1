// A node's directories: its own while it runs.
#pragma once

#include "fd.hpp"
#include "intent.hpp"

#include <smartio/node.hpp>
#include <string>

namespace smartio {

class Directories {
public:
  /// Locks both, as far as the node has them, and removes what a crash left of sockets. Errors: own_directory's.
  static Result<Directories> open(const Config& config);
  Directories(Directories&&) noexcept = default;
  Directories& operator=(Directories&&) = delete;
  ~Directories() { leave(); }
  void leave(); ///< removes the sockets and the locks

  std::string control_socket() const { return run_ + "/smartiod.sock"; }
  std::string loans() const { return run_ + "/loans"; }
  std::string state_file() const { return state_ + "/state.json"; }
  bool has_run() const { return bool(run_lock_); }
  bool has_state() const { return bool(state_lock_); }

  /// What is kept across restarts; empty without a state directory, and at the first start. Errc::bad_request: damaged,
  /// another node's, or of a version that is not known.
  Result<core::Intent> read_state(NodeId node) const;

private:
  explicit Directories(const Config& config) : run_(config.run_dir), state_(config.state_dir) {}

  std::string run_, state_;
  Fd run_lock_, state_lock_;
};

} // namespace smartio
