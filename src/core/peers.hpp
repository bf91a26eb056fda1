// What a node knows of other nodes, and of the connections with them. Values: who changes them is Node.
#pragma once

#include "events.hpp"

#include <map>
#include <string>
#include <vector>

namespace smartio::core {

inline constexpr std::chrono::milliseconds heartbeat_interval{500};

/// The two ends of the connection to itself: what is sent on one is received on the other.
inline constexpr LinkId self_as_lender = 1, self_as_borrower = 2;

/// A node we lend to: we dial it.
struct BorrowingPeer {
  std::string address;
  LinkId link = 0; ///< 0: none
  bool up = false;
  std::string boot_id{}; ///< of its host
  unsigned attempts = 0; ///< dials that failed in a row
  Time since{};
  std::vector<RequestId> waiting{};
  std::vector<RequestId> leavers{}; ///< wait until its loans have ended: then it is disconnected
};

/// A node that lends to us: it dialled. Remembered while its connection is down, until it says it disconnects.
struct LendingPeer {
  LinkId link = 0; ///< 0: down
  Hello hello{};
  Time since{};
  std::map<DeviceId, DeviceEntry> devices{};
};

struct Link {
  bool dialled;    ///< by us: we are the lender
  NodeId wanted{}; ///< with dialled: who is expected there
  NodeId peer{};   ///< 0 until its hello
  std::string nonce{};
  std::string from{};      ///< where it comes from, for a person
  bool expecting = false;  ///< the peer sends heartbeats: silence ends the link
  unsigned reads = 0;      ///< of configuration spaces that the peer asked for and has no answer to
  unsigned unanswered = 0; ///< requests that it left without an answer
  bool rival = false;      ///< it claims the id of a lender that may be alive: held until that is known
};

/// Who claims the id of a lender that is connected.
struct Rival {
  LinkId link;
  Hello hello;
};

/// Lines that a peer causes: so many in a while, the others are counted.
struct Talk {
  Time since{};
  unsigned lines = 0, left_out = 0;
};

} // namespace smartio::core
