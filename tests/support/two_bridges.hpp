// Two simulated bridges between nodes 4 and 8, whose addresses are in one order there and in the other here, as the
// shell has them.
#pragma once

#include "bridges.hpp"
#include "catch.hpp"
#include "ntb_service.hpp"

#include <filesystem>

namespace smartio::testing {

using sim::ntb::Side;

/// A node's bridges, behind sockets.
struct BridgedHost {
  BridgedHost(boost::asio::io_context& loop, unsigned number, std::vector<std::string> addresses,
              std::chrono::milliseconds silence)
      : io(loop), config{.node = NodeId(number)} {
    core::UseBridges use{std::move(addresses), silence};
    bridges.perform(use);
  }
  boost::asio::io_context& io;
  Config config;
  Context context{io, config, [](const core::Event&) {}};
  std::unique_ptr<HostDevices> host = HostDevices::open(io, "", {}).value();
  DeviceSources sources{context, *host};
  Bridges bridges{context, *host, sources, [](const Bridges::PathRef&) {}};
};

inline std::string make_place() {
  std::string name = "/tmp/smartio-two-XXXXXX";
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  return name;
}

struct TwoBridges {
  /// Node 4 gives a sign of life six times in its own silence.
  explicit TwoBridges(std::chrono::milliseconds silence_of_four = std::chrono::seconds(1)) {
    REQUIRE(first.listen(Side::a, place + "/1").has_value());
    REQUIRE(first.listen(Side::b, place + "/4").has_value());
    REQUIRE(second.listen(Side::a, place + "/2").has_value());
    REQUIRE(second.listen(Side::b, place + "/3").has_value());
    four.emplace(io, 4U, std::vector{address("1"), address("2")}, silence_of_four);
    eight.emplace(io, 8U, std::vector{address("3"), address("4")}, std::chrono::seconds(1));
  }
  ~TwoBridges() {
    bool closed = false;
    {
      const std::shared_ptr<void> both(nullptr, [&closed](void*) { closed = true; });
      for (auto* host : {&four, &eight}) (*host)->bridges.close_all(both);
    }
    CHECK(reach([&closed] { return closed; }));
    std::filesystem::remove_all(place);
  }
  std::string address(const char* name) const { return "vfio-user:" + place + "/" + name; }
  bool reach(const std::function<bool()>& condition) {
    for (int i = 0; i < 3000; ++i) {
      if (condition()) return true;
      io.run_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  /// What node 8 has when node 4 speaks of the bridge that it takes.
  std::shared_ptr<Exposures> far_end() const {
    const auto near = four->bridges.to(NodeId{8});
    if (!near) return nullptr;
    const auto path = device_path(*near->path());
    return eight->bridges.find(NodeId{4}, {.own = path.to, .peer = path.from});
  }

  /// Each node takes the one that is first with it then, whichever came up first.
  bool both_up() const {
    const auto far = far_end(), other = eight->bridges.to(NodeId{4});
    return far && other && other != far;
  }

  std::string place = make_place();
  boost::asio::io_context io;
  sim::NtbService first{io, *sim::ntb::find_chip("gen4"), 1U << 20}, second{io, *sim::ntb::find_chip("gen4"), 1U << 20};
  std::optional<BridgedHost> four, eight;
};

} // namespace smartio::testing
