// A node: the host's runtime, in this process or in the host's smartiod.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/device.hpp>
#include <smartio/error.hpp>
#include <smartio/events.hpp>
#include <smartio/types.hpp>

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::detail {
struct Node;
} // namespace smartio::detail

namespace smartio {
inline namespace v0 {

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

  Node() = default; ///< empty, as one that was moved from: to be tested, assigned and destroyed
  explicit operator bool() const noexcept { return impl_ != nullptr; }

  NodeId id() const noexcept;
  /// Lets that node see and borrow this node's devices; without an address: that of Config::nodes, or the one it had.
  Result<void> connect(NodeId borrower, const std::string& address = {}) const;
  Result<void> disconnect(NodeId borrower) const;
  Result<DeviceId> add(const std::string& address) const; ///< BDF or vfio-user:PATH
  Result<void> remove(DeviceId) const;
  Result<void> make_available(DeviceId, bool force = false) const;
  Result<void> make_unavailable(DeviceId) const; ///< takes it back first if borrowed
  /// Own and connected lenders' that match, sorted by id; Errc::bad_request for what is no filter.
  Result<std::vector<DeviceInfo>> devices(const Filter& filter = {}) const;

  // Filters, kept until they are removed. Each needs one of its parts; the devices that match now.
  Result<std::vector<DeviceId>> add_filter(const Filter&) const;         ///< adds what matches, now and later
  Result<std::vector<DeviceId>> available_filter(const Filter&) const;   ///< makes available what matches and is added
  Result<std::vector<DeviceId>> unavailable_filter(const Filter&) const; ///< the opposite; ends available_filter
  Result<std::vector<DeviceId>> remove_filter(const Filter&) const;      ///< ends add_filter, removes what it added
  Result<Filters> filters() const;
  Result<std::vector<DeviceId>> scan() const; ///< looks for devices that appeared, and tries again what failed

  Result<std::map<std::string, std::string>> options() const; ///< as smartio_tool config prints them
  Result<void> set_option(const std::string& name, const std::string& value) const; ///< kept across restarts

  Result<std::vector<PeerInfo>> peers() const;
  Result<std::vector<LoanInfo>> loans() const;
  /// Own and lenders' devices, also while they are lent: 256 or 4096 bytes, as lspci -xxxx would show them. Those
  /// behind vfio-user sockets once they are available.
  Result<std::vector<std::byte>> config_space(DeviceId, ConfigForm form = ConfigForm::vfio) const;

  /// Borrows the device for this program, or works under the loan its node already has. Blocks for two calls, and for
  /// as long as the device's server takes to describe it, each answer within Config::timeout, or 4 s of an attached
  /// node. Errc::busy, wrong_state, peer_down.
  Result<Device> borrow(DeviceId, Borrow how = {}) const;
  /// Ends the loan of this node, whoever uses it: programs lose the device. Not borrowed: nothing happens.
  Result<void> give_back(DeviceId) const;

  Result<Events> events() const;

  Result<std::string> status_json() const; ///< the monitoring dump, tools/schema/status.json

  /// A command of smartio_tool's own protocol, JSON in and out; it may change between versions. For what has no method
  /// above: `connect` that goes on trying, `available` of what cannot be reset, `borrow` with a window or for another
  /// user, all that `show` tells.
  Result<std::string> call(const std::string& command, const std::string& arguments = "{}") const;

  /// `event` gets one JSON object per event, on a thread of the library, until the node ends or it returns false,
  /// or throws. Errc::busy: an attached node is monitored already, and its smartiod has not gone.
  Result<void> monitor(std::function<bool(std::string_view event)> event) const;

private:
  explicit Node(std::shared_ptr<detail::Node> impl) noexcept : impl_(std::move(impl)) {}
  std::shared_ptr<detail::Node> impl_;
};

} // namespace v0
} // namespace smartio

#endif
