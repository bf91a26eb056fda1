// One client that exposes memory in the window of its host's bridge, and what the other host sees of it.
#pragma once

#include "exposures.hpp"
#include "ntb_nodes.hpp"

#include <cstring>

namespace smartio::testing {

inline constexpr std::uint64_t page = 4096;
inline constexpr std::uint64_t room = NtbHost::window_bytes - page; ///< the first page is the control page

using Offset = std::expected<std::uint64_t, int>;
using Map = WatchedDevice::Map;

inline Fd file(std::uint64_t pages) { return make_memfd("memory", pages * page).value(); }

struct ExposingClient {
  ExposingClient() {
    REQUIRE(nodes.both_up());
    bridge().maps.clear();
    exposures = std::make_shared<Exposures>(nodes.a.peer);
  }
  ~ExposingClient() { bridge().late = false; } // an answer that waits would hold the bridge
  WatchedDevice& bridge() { return *nodes.bridge_of_a; }
  std::uint64_t used_pages() const { return nodes.a.peer->used_bytes() / page; }

  /// `first` and `pages` in pages of the file. The result comes at any time.
  std::shared_ptr<std::optional<Offset>> ask(const Fd& fd, std::uint64_t first, std::uint64_t pages,
                                             Access access = Access::read_write) {
    auto result = std::make_shared<std::optional<Offset>>();
    exposures->expose(self, fd.duplicate().value(), first * page, pages * page, access, [result](Offset at) {
      REQUIRE_FALSE(result->has_value());
      result->emplace(at);
    });
    return result;
  }
  Offset expose(const Fd& fd, std::uint64_t first, std::uint64_t pages, Access access = Access::read_write) {
    const auto result = ask(fd, first, pages, access);
    REQUIRE(result->has_value());
    return **result;
  }
  void unexpose(Offset at) {
    bool done = false;
    exposures->unexpose(at.value(), [&done] { done = true; });
    REQUIRE(done);
  }
  /// What reached the bridge's device since it was last asked.
  std::vector<Map> maps() { return std::exchange(bridge().maps, {}); }
  Map map(Offset at, std::uint64_t first, std::uint64_t pages) {
    return {nodes.a.peer->inbound(at.value()), pages * page, first * page};
  }
  /// Whether what the other host writes at `at` of its aperture arrives in that page of the file.
  bool arrives(Offset at, const Fd& fd, std::uint64_t first) {
    const auto value = ++written;
    nodes.pair.b.write(fabric::ntb::Peer::aperture_region, at.value(), 8, value);
    std::uint64_t seen = 0;
    std::memcpy(&seen, Mapping::map(fd.get(), first * page, page).value().bytes().data(), sizeof seen);
    return seen == value;
  }

  Nodes nodes{"gen4"};
  std::shared_ptr<Exposures> exposures;
  Exposures::ClientRef self = std::make_shared<Exposures::Client>();
  std::uint64_t written = 0;
};

} // namespace smartio::testing
