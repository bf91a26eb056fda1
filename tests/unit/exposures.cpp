// What one client exposes in the window of its host's bridge, and what stays registered there; on the simulated bridge.
#include "exposures.hpp"
#include "ntb_nodes.hpp"

#include <cstring>
#include <sys/file.h>

using namespace smartio;
using namespace smartio::testing;
using fabric::ntb::Peer;

namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t room = NtbHost::window_bytes - page; ///< the first page is the control page

using Offset = std::expected<std::uint64_t, int>;
using Map = WatchedDevice::Map;

Fd file(std::uint64_t pages) { return make_memfd("memory", pages * page).value(); }

struct Client {
  Client() {
    REQUIRE(nodes.both_up());
    bridge().maps.clear();
    exposures = std::make_shared<Exposures>(nodes.a.peer);
  }
  ~Client() { bridge().late = false; } // an answer that waits would hold the bridge
  WatchedDevice& bridge() { return *nodes.bridge_of_a; }
  std::uint64_t used_pages() const { return nodes.a.peer->used_bytes() / page; }

  /// `first` and `pages` in pages of the file. The result comes at any time.
  std::shared_ptr<std::optional<Offset>> ask(const Fd& fd, std::uint64_t first, std::uint64_t pages,
                                             Access access = Access::read_write) {
    auto result = std::make_shared<std::optional<Offset>>();
    exposures->expose(fd.duplicate().value(), first * page, pages * page, access, [result](Offset at) {
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
    nodes.pair.b.write(Peer::aperture_region, at.value(), 8, value);
    std::uint64_t seen = 0;
    std::memcpy(&seen, Mapping::map(fd.get(), first * page, page).value().bytes().data(), sizeof seen);
    return seen == value;
  }

  Nodes nodes{"gen4"};
  std::shared_ptr<Exposures> exposures;
  std::uint64_t written = 0;
};

} // namespace

TEST_CASE("pieces of a file share a room for all of it, and each byte is mapped once") {
  Client client;
  const auto memory = file(8);
  const auto first = client.expose(memory, 2, 2);
  CHECK(client.used_pages() == 8);
  CHECK(client.maps() == std::vector{client.map(first, 2, 2)});

  const auto around = client.expose(memory, 1, 6);
  REQUIRE(around.has_value());
  CHECK(*around == *first - page);
  CHECK(client.maps() == std::vector{client.map(*around, 1, 1), client.map(*around + 3 * page, 4, 3)});

  const auto within = client.expose(memory, 3, 2);
  CHECK(within == *first + page);
  CHECK(client.maps().empty());
  CHECK(client.used_pages() == 8);
  for (std::uint64_t i = 0; i < 6; ++i) CHECK(client.arrives(*around + i * page, memory, 1 + i));
}

TEST_CASE("what was unexposed stays mapped, and is exposed again without a new map") {
  Client client;
  const auto memory = file(4);
  const auto at = client.expose(memory, 0, 4);
  client.maps();
  client.unexpose(at);
  CHECK(client.used_pages() == 4);
  CHECK(client.expose(memory, 0, 4) == at);
  CHECK(client.expose(memory, 3, 1) == *at + 3 * page);
  CHECK(client.maps().empty());
  CHECK(client.bridge().unmaps == 0);
  CHECK(client.arrives(at, memory, 0));
}

TEST_CASE("a small piece of a file has no more room than it needs, and pieces within it share that") {
  Client client;
  const auto memory = file(64);
  const auto small = client.expose(memory, 40, 4);
  CHECK(client.used_pages() == 4);
  CHECK(client.expose(memory, 41, 2) == *small + page);
  CHECK(client.maps().size() == 1);
  const auto longer = client.expose(memory, 41, 4);
  CHECK(client.used_pages() == 8);
  CHECK(client.arrives(longer, memory, 41));
}

TEST_CASE("of two rooms of a file the one where nothing is missing is used again") {
  Client client;
  const auto memory = file(12);
  const auto small = client.expose(memory, 10, 2);
  client.unexpose(client.expose(memory, 0, 3));
  CHECK(client.used_pages() == 2 + 12);
  client.unexpose(small);
  client.maps();
  CHECK(client.expose(memory, 10, 2) == small);
  CHECK(client.maps().empty());
}

TEST_CASE("of a file that does not fit a piece may") {
  Client client;
  REQUIRE(client.nodes.a.peer->reserve(4 * page));
  const auto memory = file(12);
  const auto at = client.expose(memory, 9, 3);
  CHECK(client.used_pages() == 4 + 3);
  CHECK(client.arrives(*at + 2 * page, memory, 11));
  client.exposures->close();
  CHECK(client.used_pages() == 4);
}

TEST_CASE("files are not confused, nor are kinds of access") {
  Client client;
  const auto memory = file(2), other = file(2);
  const auto at = client.expose(memory, 0, 2);
  const auto of_other = client.expose(other, 0, 2);
  CHECK(client.arrives(at, memory, 0));
  CHECK(client.arrives(of_other, other, 0));
  const auto read_only = client.expose(memory, 0, 2, Access::read);
  CHECK(client.maps().size() == 3);
  CHECK(client.used_pages() == 6);
  client.nodes.pair.b.write(Peer::aperture_region, read_only.value(), 8, 0x99);
  CHECK(client.nodes.pair.b.read(Peer::aperture_region, at.value(), 8) == 1); // as it was
}

TEST_CASE("a file is held as long as it is registered: its inode's number cannot become another's") {
  Client client;
  client.bridge().pretend = true; // a bridge that holds nothing itself
  auto memory = file(1);
  REQUIRE(::flock(memory.get(), LOCK_EX) == 0);
  const Fd again(::open(("/proc/self/fd/" + std::to_string(memory.get())).c_str(), O_RDWR | O_CLOEXEC));
  const auto held = [&again] { return ::flock(again.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; };
  client.unexpose(client.expose(memory, 0, 1));
  memory.reset();
  CHECK(held());
  client.exposures->close();
  CHECK_FALSE(held());
}

TEST_CASE("what is no regular file has a room of its own, which goes with its use") {
  Client client;
  client.bridge().pretend = true;
  const auto first = make_eventfd().value(), second = make_eventfd().value(); // which have one inode in common
  const auto at = client.expose(first, 0, 2), same = client.expose(first, 0, 2), other = client.expose(second, 0, 2);
  CHECK(client.maps().size() == 3);
  CHECK(client.used_pages() == 6);
  client.unexpose(same);
  CHECK(client.used_pages() == 4);
  client.unexpose(other);
  client.unexpose(at);
  CHECK(client.used_pages() == 0);
  CHECK(client.bridge().unmaps == 3);
}

TEST_CASE("a room stays in use until the last piece in it is unexposed") {
  Client client;
  const auto memory = file(8), large = file(10);
  const auto at = client.expose(memory, 0, 8), piece = client.expose(memory, 4, 1);
  client.unexpose(at);
  CHECK(client.expose(large, 0, 10) == std::unexpected(ENOSPC));
  CHECK(client.arrives(piece, memory, 4));
  client.unexpose(piece);
  client.unexpose(piece); // once too often
  CHECK(client.expose(large, 0, 10).has_value());
}

TEST_CASE("when room is short the oldest without a use are dropped, and no more of them than it takes") {
  Client client;
  const auto a = file(5), b = file(5), c = file(5), d = file(4), e = file(10);
  const auto at_a = client.expose(a, 0, 5), at_b = client.expose(b, 0, 5), at_c = client.expose(c, 0, 5);
  REQUIRE(client.used_pages() == room / page);
  CHECK(client.expose(d, 0, 4) == std::unexpected(ENOSPC));
  client.unexpose(at_b);
  client.unexpose(at_a);
  client.maps();

  const auto at_d = client.expose(d, 0, 4);
  CHECK(client.bridge().unmaps == 1);
  CHECK(client.maps().size() == 1);
  CHECK(client.arrives(at_d, d, 0));
  CHECK(client.expose(a, 0, 5) == at_a);
  CHECK(client.maps().empty());

  for (const auto& at : {at_c, at_d, at_a}) client.unexpose(at);
  CHECK(client.expose(e, 0, 10).has_value());
  CHECK(client.bridge().unmaps == 3);
  CHECK(client.used_pages() == 10 + 5);
}

TEST_CASE("only so many stay without a use, the youngest") {
  Client client;
  std::vector<Fd> files;
  std::vector<Offset> at;
  for (std::size_t i = 0; i < Exposures::most_unused + 2; ++i) {
    files.push_back(file(1));
    at.push_back(client.expose(files.back(), 0, 1));
  }
  for (const auto& one : at) client.unexpose(one);
  CHECK(client.used_pages() == Exposures::most_unused);
  client.maps();
  for (std::size_t i = 2; i < files.size(); ++i) CHECK(client.expose(files[i], 0, 1) == at[i]);
  CHECK(client.maps().empty());
  CHECK(client.expose(files[1], 0, 1).has_value());
  CHECK(client.maps().size() == 1);
}

TEST_CASE("ranges that make no sense are EINVAL and reserve nothing") {
  Client client;
  const auto memory = file(4);
  const auto exposed = [&](std::uint64_t offset, std::uint64_t size) {
    std::optional<Offset> result;
    client.exposures->expose(memory.duplicate().value(), offset, size, Access::read_write,
                             [&result](Offset at) { result = at; });
    return result.value();
  };
  for (const auto offset : {std::uint64_t{0}, page, UINT64_MAX}) CHECK(exposed(offset, 0) == std::unexpected(EINVAL));
  CHECK(exposed(UINT64_MAX - page + 1, page) == std::unexpected(EINVAL));
  CHECK(exposed(page, UINT64_MAX) == std::unexpected(EINVAL));
  CHECK(exposed(0, UINT64_MAX) == std::unexpected(ENOSPC));
  CHECK(exposed(page, 100) == std::unexpected(EINVAL)); // says the bridge's device
  std::optional<Offset> result;
  client.exposures->expose({}, 0, page, Access::read, [&result](Offset at) { result = at; });
  CHECK(result == std::unexpected(EBADF));
  CHECK(client.used_pages() == 0);
  CHECK(client.maps().size() == 1);
}

TEST_CASE("whether a piece beyond the end of its file can be mapped is the bridge's device's to say") {
  Client client;
  const auto memory = file(4);
  client.bridge().pretend = true;
  const auto at = client.expose(memory, 2, 4);
  CHECK(client.maps() == std::vector{client.map(at, 2, 4)});
  CHECK(client.used_pages() == 4);
}

TEST_CASE("the last page of a file belongs to its room, however much of it the file has") {
  Client client;
  client.bridge().pretend = true;
  const auto memory = make_memfd("memory", page + 100).value();
  const auto at = client.expose(memory, 0, 1);
  CHECK(client.expose(memory, 1, 1) == *at + page);
  CHECK(client.used_pages() == 2);
}

TEST_CASE("a map that fails leaves what was mapped before, in use or not") {
  Client client;
  const auto memory = file(8);
  auto& refuse = client.bridge().refuse;
  refuse = [](const vfio::DmaMap&) { return EIO; };
  CHECK(client.expose(memory, 0, 8) == std::unexpected(EIO));
  CHECK(client.used_pages() == 0);
  refuse = nullptr;
  const auto at = client.expose(memory, 0, 2);
  client.unexpose(client.expose(memory, 4, 2));
  client.maps();

  refuse = [](const vfio::DmaMap& map) { return map.offset == 6 * page ? EIO : 0; };
  CHECK(client.expose(memory, 0, 8) == std::unexpected(EIO));
  CHECK(client.maps() == std::vector{client.map(*at + 2 * page, 2, 2)});
  CHECK(client.arrives(at, memory, 0));
  CHECK(client.expose(memory, 0, 6) == at);
  CHECK(client.maps().empty());
  refuse = nullptr;
  CHECK(client.expose(memory, 0, 8) == at);
  CHECK(client.maps() == std::vector{client.map(*at + 6 * page, 6, 2)});
}

TEST_CASE("for a device that can hold no more what is unused is given up, the oldest first") {
  Client client;
  const auto a = file(1), b = file(1), c = file(1);
  for (const auto* memory : {&a, &b}) client.unexpose(client.expose(*memory, 0, 1));
  const int full = GENERATE(ENOMEM, ENOSPC);
  client.bridge().refuse = [&](const vfio::DmaMap&) { return client.bridge().unmaps == 0 ? full : 0; };
  CHECK(client.expose(c, 0, 1).has_value());
  CHECK(client.used_pages() == 2);
  client.maps();
  CHECK(client.expose(b, 0, 1).has_value());
  CHECK(client.maps().empty());
  client.bridge().refuse = [&](const vfio::DmaMap&) { return full; };
  CHECK(client.expose(a, 0, 1) == std::unexpected(full)); // all are in use
  CHECK(client.used_pages() == 2);
}

TEST_CASE("room is used again only once nothing is reached there") {
  Client client;
  const auto a = file(10), b = file(10);
  client.unexpose(client.expose(a, 0, 10));
  client.bridge().late = true;
  const auto result = client.ask(b, 0, 10);
  CHECK(client.bridge().unmaps == 1);
  CHECK(client.used_pages() == 10);
  CHECK_FALSE(result->has_value());
  client.bridge().answer(); // that it is unmapped
  CHECK_FALSE(result->has_value());
  client.bridge().answer(); // that it is mapped
  REQUIRE(result->has_value());
  CHECK(client.arrives(**result, b, 0));
}

TEST_CASE("room that the bridge's device does not unmap is never used again") {
  Client client;
  const auto a = file(4), b = file(4), c = file(8);
  for (const auto* memory : {&a, &b}) client.unexpose(client.expose(*memory, 0, 4));
  client.bridge().stuck = true;
  CHECK(client.expose(c, 0, 8) == std::unexpected(ENOSPC));
  CHECK(client.bridge().unmaps == 2);
  CHECK(client.used_pages() == 8);
  CHECK(client.expose(a, 0, 4).has_value());
  CHECK(client.used_pages() == 12);
}

TEST_CASE("after close nothing is reached, and nothing can be exposed") {
  Client client;
  const auto a = file(2), b = file(2);
  const auto at_a = client.expose(a, 0, 2), at_b = client.expose(b, 0, 2);
  client.unexpose(at_b);
  const auto reached = [&client](Offset at) {
    return client.nodes.pair.b.ask(vfio::RegionRead{Peer::aperture_region, at.value(), 8})->has_value();
  };
  CHECK(reached(at_a));
  CHECK(reached(at_b));
  if (GENERATE(true, false))
    client.exposures->close();
  else
    client.exposures.reset();
  CHECK(client.used_pages() == 0);
  CHECK_FALSE(reached(at_a));
  CHECK_FALSE(reached(at_b));
  if (client.exposures) CHECK(client.expose(a, 0, 2) == std::unexpected(ECANCELED));
}

TEST_CASE("close during an expose leaves nothing mapped, whatever was under way") {
  Client client;
  const auto a = file(8), b = file(8), c = file(2);
  client.unexpose(client.expose(a, 0, 4));
  client.bridge().late = true;
  std::shared_ptr<std::optional<Offset>> result;
  SECTION("a map of more of it") { result = client.ask(a, 0, 8); }
  SECTION("a map in new room") { result = client.ask(c, 0, 2); }
  SECTION("an unmap, for room") { result = client.ask(b, 0, 8); }
  SECTION("an unmap, for a device that is full") {
    client.bridge().refuse = [](const vfio::DmaMap&) { return ENOMEM; };
    result = client.ask(c, 0, 2);
  }
  REQUIRE(client.bridge().answers.size() == 1);
  client.maps();
  client.exposures->close();
  CHECK_FALSE(result->has_value());
  while (!client.bridge().answers.empty()) client.bridge().answer();
  CHECK(*result == std::unexpected(ECANCELED));
  CHECK(client.used_pages() == 0);
  CHECK(client.maps().empty());
}
