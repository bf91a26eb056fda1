// What one client exposes in the window of a path, and what stays registered there.
#include "exposing_client.hpp"

#include <fcntl.h>
#include <sys/file.h>

using namespace smartio;
using namespace smartio::testing;

TEST_CASE("pieces of a file share a room for all of it, and each byte is mapped once") {
  ExposingClient client;
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
  ExposingClient client;
  const auto memory = file(4);
  const auto at = client.expose(memory, 0, 4);
  client.maps();
  client.unexpose(at);
  CHECK(client.used_pages() == 4);
  CHECK(client.expose(memory, 0, 4) == at);
  CHECK(client.expose(memory, 3, 1) == *at + 3 * page);
  CHECK(client.maps().empty());
  CHECK(client.watched().unmaps == 0);
  CHECK(client.arrives(at, memory, 0));
}

TEST_CASE("a small piece of a file has no more room than it needs, and pieces within it share that") {
  ExposingClient client;
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
  ExposingClient client;
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
  ExposingClient client;
  REQUIRE(client.path->reserve(4 * page));
  const auto memory = file(12);
  const auto at = client.expose(memory, 9, 3);
  CHECK(client.used_pages() == 4 + 3);
  CHECK(client.arrives(*at + 2 * page, memory, 11));
  client.exposures->close(client.self);
  CHECK(client.used_pages() == 4);
}

TEST_CASE("files are not confused, nor are kinds of access") {
  ExposingClient client;
  const auto memory = file(2), other = file(2);
  const auto at = client.expose(memory, 0, 2);
  const auto of_other = client.expose(other, 0, 2);
  CHECK(client.arrives(at, memory, 0));
  CHECK(client.arrives(of_other, other, 0));
  const auto read_only = client.expose(memory, 0, 2, Access::read);
  CHECK(client.maps().size() == 3);
  CHECK(client.used_pages() == 6);
  write_through(*client.paths.b, read_only.value(), 0x99);
  CHECK(client.seen(at) == 1); // as it was
}

TEST_CASE("a file is held as long as it is registered: its inode's number cannot become another's") {
  ExposingClient client;
  client.watched().pretend = true; // a path that holds nothing itself
  auto memory = file(1);
  REQUIRE(::flock(memory.get(), LOCK_EX) == 0);
  const Fd again(::open(("/proc/self/fd/" + std::to_string(memory.get())).c_str(), O_RDWR | O_CLOEXEC));
  const auto held = [&again] { return ::flock(again.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; };
  client.unexpose(client.expose(memory, 0, 1));
  memory.reset();
  CHECK(held());
  client.exposures->close(client.self);
  CHECK_FALSE(held());
}

TEST_CASE("what is no regular file has a room of its own, which goes with its use") {
  ExposingClient client;
  client.watched().pretend = true;
  const auto first = make_eventfd().value(), second = make_eventfd().value(); // which have one inode in common
  const auto at = client.expose(first, 0, 2), same = client.expose(first, 0, 2), other = client.expose(second, 0, 2);
  CHECK(client.maps().size() == 3);
  CHECK(client.used_pages() == 6);
  client.unexpose(same);
  CHECK(client.used_pages() == 4);
  client.unexpose(other);
  client.unexpose(at);
  CHECK(client.used_pages() == 0);
  CHECK(client.watched().unmaps == 3);
}

TEST_CASE("a room stays in use until the last piece in it is unexposed") {
  ExposingClient client;
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
  ExposingClient client;
  const auto a = file(5), b = file(5), c = file(5), d = file(4), e = file(10);
  const auto at_a = client.expose(a, 0, 5), at_b = client.expose(b, 0, 5), at_c = client.expose(c, 0, 5);
  REQUIRE(client.used_pages() == room / page);
  CHECK(client.expose(d, 0, 4) == std::unexpected(ENOSPC));
  client.unexpose(at_b);
  client.unexpose(at_a);
  client.maps();

  const auto at_d = client.expose(d, 0, 4);
  CHECK(client.watched().unmaps == 1);
  CHECK(client.maps().size() == 1);
  CHECK(client.arrives(at_d, d, 0));
  CHECK(client.expose(a, 0, 5) == at_a);
  CHECK(client.maps().empty());

  for (const auto& at : {at_c, at_d, at_a}) client.unexpose(at);
  CHECK(client.expose(e, 0, 10).has_value());
  CHECK(client.watched().unmaps == 3);
  CHECK(client.used_pages() == 10 + 5);
}

TEST_CASE("clients have no room in common, but one gives up what it does not use for the other") {
  ExposingClient client;
  const auto other = std::make_shared<Exposures::Client>();
  const auto memory = file(6), small = file(3);
  const auto by_other = [&](const Fd& fd, std::uint64_t pages) {
    std::optional<Offset> result;
    client.exposures->expose(other, fd.duplicate().value(), 0, pages * page, Access::read_write,
                             [&result](Offset at) { result = at; });
    return result.value();
  };
  const auto used = client.expose(small, 0, 3), at = client.expose(memory, 0, 6);
  const auto theirs = by_other(memory, 6);
  CHECK(client.used_pages() == 15);
  CHECK(theirs != at);
  client.unexpose(theirs);
  client.exposures->close(other);
  CHECK(client.used_pages() == 9);
  CHECK(client.arrives(at, memory, 0));
  CHECK(by_other(memory, 6) == std::unexpected(ECANCELED));

  client.unexpose(at);
  client.exposures->reserve(10 * page, [&](std::optional<std::uint64_t> there) { CHECK(there.has_value()); });
  CHECK(client.used_pages() == 13);
  CHECK(client.arrives(used, small, 0));
  client.exposures->reserve(3 * page, [&](std::optional<std::uint64_t> there) { CHECK_FALSE(there.has_value()); });
}

TEST_CASE("only so many stay without a use, the youngest") {
  ExposingClient client;
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

TEST_CASE("the last page of a file belongs to its room, however much of it the file has") {
  ExposingClient client;
  client.watched().pretend = true;
  const auto memory = make_memfd("memory", page + 100).value();
  const auto at = client.expose(memory, 0, 1);
  CHECK(client.expose(memory, 1, 1) == *at + page);
  CHECK(client.used_pages() == 2);
}

TEST_CASE("what is reserved for a client is there for it, however much others expose") {
  ExposingClient client;
  Exposures::ReserveRef reserve;
  client.exposures->reserve_for_clients(8 * page, [&](auto got) { reserve = got; });
  REQUIRE(reserve);
  CHECK(client.used_pages() == 8);
  const auto big = file(8), other = file(7), more = file(4);
  CHECK(client.expose(other, 0, 7).has_value()); // with the control page the window's 16 pages are taken
  CHECK(client.expose(more, 0, 4) == std::unexpected(ENOSPC));

  const auto owner = std::exchange(client.self, std::make_shared<Exposures::Client>(reserve));
  const auto at = client.expose(big, 0, 8);
  REQUIRE(at.has_value());
  CHECK(client.arrives(*at + 7 * page, big, 7));
  CHECK(client.used_pages() == 15);
  CHECK(client.expose(more, 0, 4) == std::unexpected(ENOSPC));
  client.exposures->close(client.self); // another client of the loan has it next
  CHECK(client.used_pages() == 15);
  client.self = std::make_shared<Exposures::Client>(reserve);
  CHECK(client.expose(big, 0, 8).has_value());

  client.exposures->close(client.self);
  client.self = owner;
  reserve.reset();
  CHECK(client.used_pages() == 7);
  CHECK(client.expose(more, 0, 4).has_value());
}

TEST_CASE("more than fits is not reserved, and a client that needs more than its reserve has what is free") {
  ExposingClient client;
  Exposures::ReserveRef reserve;
  const auto ask = [&](std::uint64_t pages) {
    client.exposures->reserve_for_clients(pages * page, [&](auto got) { reserve = got; });
    return reserve != nullptr;
  };
  CHECK_FALSE(ask(16));
  CHECK_FALSE(ask(1ULL << 40));
  CHECK(client.used_pages() == 0);
  REQUIRE(ask(4));
  client.self = std::make_shared<Exposures::Client>(reserve);
  const auto memory = file(6), small = file(4);
  CHECK(client.expose(memory, 0, 6).has_value());
  CHECK(client.used_pages() == 4 + 6);
  CHECK(client.expose(small, 0, 4).has_value());
  CHECK(client.used_pages() == 4 + 6);
}

TEST_CASE("a reserve where something stays mapped is nobody's again") {
  ExposingClient client;
  Exposures::ReserveRef reserve;
  client.exposures->reserve_for_clients(4 * page, [&](auto got) { reserve = got; });
  client.self = std::make_shared<Exposures::Client>(std::exchange(reserve, {}));
  REQUIRE(client.expose(file(4), 0, 4).has_value());
  client.watched().stuck = true;
  client.exposures->close(client.self);
  client.self.reset();
  CHECK(client.used_pages() == 4);
  client.watched().stuck = false;
}
