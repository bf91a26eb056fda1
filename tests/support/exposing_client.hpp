// One client that exposes memory in the window of a path, and what the other host sees of it.
#pragma once

#include "catch.hpp"
#include "exposures.hpp"
#include "memory_path.hpp"

#include <cstring>

namespace smartio::testing {

inline constexpr std::uint64_t page = page_size;
inline constexpr std::uint64_t room = MemoryPath::room_bytes;

using Offset = std::expected<std::uint64_t, int>;
using Map = WatchedDevice::Map;

inline Fd file(std::uint64_t pages) { return make_memfd("memory", pages * page).value(); }

struct ExposingClient {
  ~ExposingClient() { watched().late = false; } // an answer that waits would hold the path
  WatchedDevice& watched() const { return *path->watched(); }
  std::uint64_t used_pages() const { return path->used_bytes() / page; }

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
  /// What reached the path's device since it was last asked.
  std::vector<Map> maps() { return std::exchange(watched().maps, {}); }
  Map map(Offset at, std::uint64_t first, std::uint64_t pages) const {
    return {path->inbound(at.value()), pages * page, first * page};
  }
  /// Whether what the other host writes at `at` of its aperture arrives in that page of the file.
  bool arrives(Offset at, const Fd& fd, std::uint64_t first) {
    const auto value = ++written;
    write_through(*paths.b, at.value(), value);
    std::uint64_t seen = 0;
    std::memcpy(&seen, Mapping::map(fd.get(), first * page, page).value().bytes().data(), sizeof seen);
    return seen == value;
  }
  /// What the other host finds there; nullopt: it reaches nothing.
  std::optional<std::uint64_t> seen(Offset at) const { return read_through(*paths.b, at.value()); }

  boost::asio::io_context io;
  MemoryPaths paths{io};
  std::shared_ptr<MemoryPath> path = paths.a;
  std::shared_ptr<Exposures> exposures = std::make_shared<Exposures>(path);
  Exposures::ClientRef self = std::make_shared<Exposures::Client>();
  std::uint64_t written = 0;
};

} // namespace smartio::testing
