// What a node knows, to be looked at; and how it is joined with others.
#pragma once

#include "intent.hpp"
#include "loan.hpp"
#include "own_devices.hpp"
#include "peers.hpp"

#include <map>
#include <string>
#include <vector>

namespace smartio::core {

struct Settings {
  NodeId node{};
  std::string boot_id;                   ///< of this host
  std::string fabric_token;              ///< of the local fabric, 32 hex digits; empty: none
  std::string nonce;                     ///< of the connection to itself, 64 hex digits
  bool can_borrow = true;                ///< there is a run directory for loan sockets
  std::map<NodeId, std::string> nodes{}; ///< addresses for `connect`
  std::chrono::milliseconds peer_timeout{3000};
  std::vector<std::string> bridges{}; ///< addresses; the option `ntb` goes before
  std::uint64_t first_epoch = 1;      ///< of its loans; above those of every earlier start
};

/// Of a node that outlives it.
struct View {
  const Settings& settings;
  const Intent& intent;
  const OwnDevices& devices;
  const std::map<std::string, BridgeChanged>& bridges; ///< by address
  const std::map<NodeId, BorrowingPeer>& borrowers;
  const std::map<NodeId, LendingPeer>& lenders;
  const std::map<DeviceId, Loan>& loans;
  const std::map<std::string, std::uint64_t>& counters;
  std::uint64_t last_event;   ///< its number
  const std::string& unsaved; ///< why what is to be kept is not saved; empty: it is
};

/// What joins this node with another: one on a host with that boot id, which has a socket for the local fabric or not.
Fabric fabric_to(const View& view, NodeId node, const std::string& boot_id, bool has_socket);
Fabric fabric_to(const View& view, const LendingPeer& lender);

} // namespace smartio::core
