// Two nodes that find each other over the simulated bridge.
#pragma once

#include "ntb/peer.hpp"
#include "ntb_pair.hpp"
#include "watched_device.hpp"

namespace smartio::testing {

/// From now on; what was attached before is not.
inline std::shared_ptr<WatchedDevice> watch(NtbHost& host) {
  const auto watched = std::make_shared<WatchedDevice>(host.device);
  host.device = watched;
  return watched;
}

struct Node {
  Node(boost::asio::io_context& io, NtbHost& host, unsigned number,
       std::chrono::milliseconds silence = std::chrono::milliseconds(300)) {
    fabric::ntb::Peer::open(
        io, host.device, {.node = NodeId(number), .silence = silence},
        [this] {
          ++changes;
          if (seen) seen();
        },
        [this](auto opened) { peer = std::move(opened).value(); });
  }
  bool up() const { return peer && peer->state().up; }
  std::shared_ptr<fabric::ntb::Peer> peer;
  int changes = 0;
  std::function<void()> seen; ///< called at each change
};

struct Nodes {
  explicit Nodes(const char* chip) : pair(chip, false) {}
  /// Afterwards nobody is in the midst of a look: what a test writes next is found whole, or not at all.
  bool reach(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition() && std::chrono::steady_clock::now() < end) io.run_one_for(std::chrono::milliseconds(10));
    io.poll();
    return condition();
  }
  bool both_up() {
    return reach([this] { return a.up() && b.up(); });
  }
  boost::asio::io_context io;
  NtbPair pair;
  std::shared_ptr<WatchedDevice> bridge_of_a = watch(pair.a);
  Node a{io, pair.a, 4}, b{io, pair.b, 8};
};

} // namespace smartio::testing
