// A node: the host's runtime, in this process or in the host's smartiod.
#pragma once

#include <smartio/device.hpp>
#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace smartio {

namespace detail {
struct Node;
}

struct Config {
  NodeId node{};
  std::string listen;  ///< ADDRESS:PORT for peers (lenders dial it); empty: no listener, "127.0.0.1:0": any free port
  std::string run_dir; ///< sockets; empty: no control socket, and the node can lend but not borrow
  /// What is kept across restarts; empty: nothing is. Calls succeed also where the disk takes nothing: `log` and
  /// monitor's `state-unsaved` tell, and it is tried again each second.
  std::string state_dir;
  std::map<NodeId, std::string> nodes{}; ///< addresses for `connect` without one
  std::string trusted_group{};    ///< besides root and this user, its members may map registers of kernel devices
  bool insecure = false;          ///< listen on other addresses than loopback although peers are not authenticated
  std::vector<std::string> ntb{}; ///< bridges to other hosts: BDFs, or vfio-user:PATH; `config ntb` goes before
  std::chrono::milliseconds peer_timeout{3000}; ///< a peer silent for longer is dead
  std::chrono::milliseconds timeout{4000};      ///< bounds every blocking call
  std::function<void(int level, std::string_view text)>
      log{}; ///< level as syslog's: 3 error, 4 warning, 6 info, 7 debug; what it throws is lost
};

/// Thread-safe; copies share the node. Calls of a started node block for at most Config::timeout, those of an attached
/// one for 15 s, one after the other if several threads call: then Errc::timed_out, and what was begun goes on, except
/// that a device borrowed too late is returned. From a callback of a started node (log, monitor) calls are
/// Errc::wrong_state; its last copy may be destroyed there. An attached node outlives restarts of its smartiod: a call
/// under way fails, the next one connects again.
class Node {
public:
  static Result<Node> start(const Config& config);        ///< a whole node in this process; ends with its last copy
  static Result<Node> attach(const std::string& run_dir); ///< the host's smartiod

  /// Ends a started node in order, as the end of its last copy does: loans, devices, drivers. An error is the first
  /// device of this host that did not go back to its driver; the node has ended all the same, and every other call is
  /// Errc::peer_down from now on. Blocks for 5 s for what peers have to do, and for as long as devices take. Nothing
  /// happens to an attached node. Errc::wrong_state from within a callback.
  Result<void> stop() const;

  NodeId id() const noexcept;
  Result<void> connect(NodeId borrower, const std::string& address = {}) const;
  Result<void> disconnect(NodeId borrower) const;
  Result<DeviceId> add(const std::string& address) const; ///< BDF or vfio-user:PATH
  Result<void> remove(DeviceId) const;
  Result<void> make_available(DeviceId, bool force = false) const;
  Result<void> make_unavailable(DeviceId) const;   ///< takes it back first if borrowed
  Result<std::vector<DeviceInfo>> devices() const; ///< own and connected lenders', sorted by id

  /// Borrows the device for this program, or works under the loan its node already has. `shared`: up to 32 borrowers
  /// have the device at once, and each has 16 GiB of its addresses (Iova) to itself: windows are there, and take no
  /// more than that together. Errc::busy, wrong_state, peer_down.
  Result<Device> borrow(DeviceId, bool shared = false) const;

  Result<std::string> status_json() const; ///< the monitoring dump, tools/schema/status.json

  /// One management command as smartio_tool sends it, JSON in and out: what has no method of its own here.
  /// `command` is the verb ("borrow", "config", ...), `arguments` a JSON object.
  Result<std::string> call(const std::string& command, const std::string& arguments = "{}") const;

  /// `event` gets one JSON object per event, on a thread of the library, until the node ends or it returns false,
  /// or throws. Errc::busy: an attached node is monitored already, and its smartiod has not gone.
  Result<void> monitor(std::function<bool(std::string_view event)> event) const;

private:
  explicit Node(std::shared_ptr<detail::Node> impl) noexcept : impl_(std::move(impl)) {}
  std::shared_ptr<detail::Node> impl_;
};

} // namespace smartio
