// Two bridges between the same two nodes, whose addresses are in one order here and in the other there.
#include "bridges.hpp"
#include "catch.hpp"
#include "ntb_service.hpp"

#include <filesystem>

using namespace smartio;
using sim::ntb::Side;

namespace {

/// A node's bridges, behind sockets.
struct Host {
  Host(boost::asio::io_context& loop, unsigned number, std::vector<std::string> addresses)
      : io(loop), config{.node = NodeId(number)} {
    core::UseBridges use{std::move(addresses), std::chrono::seconds(1)};
    bridges.perform(use);
  }
  boost::asio::io_context& io;
  Config config;
  Context context{io, config, [](const core::Event&) {}};
  std::unique_ptr<HostDevices> host = HostDevices::open(io, "", {}).value();
  DeviceSources sources{context, *host};
  Bridges bridges{context, *host, sources, [](const Bridges::PeerRef&) {}};
};

std::string make_place() {
  std::string name = "/tmp/smartio-two-XXXXXX";
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  return name;
}

struct Cluster {
  Cluster() {
    REQUIRE(first.listen(Side::a, place + "/1").has_value());
    REQUIRE(first.listen(Side::b, place + "/4").has_value());
    REQUIRE(second.listen(Side::a, place + "/2").has_value());
    REQUIRE(second.listen(Side::b, place + "/3").has_value());
    four.emplace(io, 4U, std::vector{address("1"), address("2")});
    eight.emplace(io, 8U, std::vector{address("3"), address("4")});
  }
  ~Cluster() {
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
    const auto path = path_over(*near->bridge());
    return eight->bridges.find(NodeId{4}, {.own = path.to, .peer = path.from});
  }

  std::string place = make_place();
  boost::asio::io_context io;
  sim::NtbService first{io, *sim::ntb::find_chip("gen4"), 1U << 20}, second{io, *sim::ntb::find_chip("gen4"), 1U << 20};
  std::optional<Host> four, eight;
};

} // namespace

TEST_CASE("what one node says of a bridge is meant by the other for the same bridge, whatever the order of addresses") {
  Cluster cluster;
  REQUIRE(cluster.reach([&] { return cluster.far_end() != nullptr; }));
  const auto near = cluster.four->bridges.to(NodeId{8}), far = cluster.far_end();
  REQUIRE(near);
  CHECK(far->bridge()->lives().own == near->bridge()->lives().peer);

  SECTION("and no other node's") {
    const auto path = path_over(*near->bridge());
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{5}, {.own = path.to, .peer = path.from}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.from, .peer = path.to}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.to, .peer = path.from + 1}));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = path.to + 1, .peer = path.from}));
  }
  SECTION("and is taken again while it is up, also when one before it comes up") {
    REQUIRE(cluster.reach([&] {
      const auto other = cluster.eight->bridges.to(NodeId{4});
      return other && other != far; // both are up: the first there is the last here
    }));
    CHECK(cluster.eight->bridges.to(NodeId{4}, far->bridge()) == far);
  }
  SECTION("and is refused once that bridge has begun a new life") {
    const auto before = path_over(*near->bridge());
    core::UseBridges none{{}, std::chrono::seconds(1)};
    core::UseBridges again{{cluster.address("1"), cluster.address("2")}, std::chrono::seconds(1)};
    cluster.four->bridges.perform(none);
    cluster.four->bridges.perform(again);
    REQUIRE(cluster.reach([&] {
      const auto now = cluster.four->bridges.to(NodeId{8});
      return now && path_over(*now->bridge()) != before && cluster.far_end() != nullptr;
    }));
    CHECK_FALSE(cluster.eight->bridges.find(NodeId{4}, {.own = before.to, .peer = before.from}));
  }
}
