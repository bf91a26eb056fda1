// Memory that cannot be exposed in the window of a path, and clients that leave.
#include "exposing_client.hpp"

using namespace smartio;
using namespace smartio::testing;

TEST_CASE("ranges that make no sense are EINVAL and reserve nothing") {
  ExposingClient client;
  const auto memory = file(4);
  const auto exposed = [&](std::uint64_t offset, std::uint64_t size) {
    std::optional<Offset> result;
    client.exposures->expose(client.self, memory.duplicate().value(), offset, size, Access::read_write,
                             [&result](Offset at) { result = at; });
    return result.value();
  };
  for (const auto offset : {std::uint64_t{0}, page, UINT64_MAX}) CHECK(exposed(offset, 0) == std::unexpected(EINVAL));
  CHECK(exposed(UINT64_MAX - page + 1, page) == std::unexpected(EINVAL));
  CHECK(exposed(page, UINT64_MAX) == std::unexpected(EINVAL));
  CHECK(exposed(0, UINT64_MAX) == std::unexpected(ENOSPC));
  CHECK(exposed(page, 100) == std::unexpected(EINVAL)); // says the path's device
  std::optional<Offset> result;
  client.exposures->expose(client.self, {}, 0, page, Access::read, [&result](Offset at) { result = at; });
  CHECK(result == std::unexpected(EBADF));
  CHECK(client.used_pages() == 0);
  CHECK(client.maps().size() == 1);
}

TEST_CASE("whether a piece beyond the end of its file can be mapped is the path's device's to say") {
  ExposingClient client;
  const auto memory = file(4);
  client.watched().pretend = true;
  const auto at = client.expose(memory, 2, 4);
  CHECK(client.maps() == std::vector{client.map(at, 2, 4)});
  CHECK(client.used_pages() == 4);
}

TEST_CASE("a map that fails leaves what was mapped before, in use or not") {
  ExposingClient client;
  const auto memory = file(8);
  auto& refuse = client.watched().refuse;
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
  ExposingClient client;
  const auto a = file(1), b = file(1), c = file(1);
  for (const auto* memory : {&a, &b}) client.unexpose(client.expose(*memory, 0, 1));
  const int full = GENERATE(ENOMEM, ENOSPC);
  client.watched().refuse = [&](const vfio::DmaMap&) { return client.watched().unmaps == 0 ? full : 0; };
  CHECK(client.expose(c, 0, 1).has_value());
  CHECK(client.used_pages() == 2);
  client.maps();
  CHECK(client.expose(b, 0, 1).has_value());
  CHECK(client.maps().empty());
  client.watched().refuse = [&](const vfio::DmaMap&) { return full; };
  CHECK(client.expose(a, 0, 1) == std::unexpected(full)); // all are in use
  CHECK(client.used_pages() == 2);
}

TEST_CASE("room is used again only once nothing is reached there") {
  ExposingClient client;
  const auto a = file(10), b = file(10);
  client.unexpose(client.expose(a, 0, 10));
  client.watched().late = true;
  const auto result = client.ask(b, 0, 10);
  CHECK(client.watched().unmaps == 1);
  CHECK(client.used_pages() == 10);
  CHECK_FALSE(result->has_value());
  client.watched().answer(); // that it is unmapped
  CHECK_FALSE(result->has_value());
  client.watched().answer(); // that it is mapped
  REQUIRE(result->has_value());
  CHECK(client.arrives(**result, b, 0));
}

TEST_CASE("room that the path's device does not unmap is never used again") {
  ExposingClient client;
  const auto a = file(4), b = file(4), c = file(8);
  for (const auto* memory : {&a, &b}) client.unexpose(client.expose(*memory, 0, 4));
  client.watched().stuck = true;
  CHECK(client.expose(c, 0, 8) == std::unexpected(ENOSPC));
  CHECK(client.watched().unmaps == 2);
  CHECK(client.used_pages() == 8);
  CHECK(client.expose(a, 0, 4).has_value());
  CHECK(client.used_pages() == 12);
}

TEST_CASE("after close nothing is reached, and nothing can be exposed") {
  ExposingClient client;
  const auto a = file(2), b = file(2);
  const auto at_a = client.expose(a, 0, 2), at_b = client.expose(b, 0, 2);
  client.unexpose(at_b);
  const auto reached = [&client](Offset at) { return client.seen(at).has_value(); };
  CHECK(reached(at_a));
  CHECK(reached(at_b));
  client.exposures->close(client.self);
  CHECK(client.used_pages() == 0);
  CHECK_FALSE(reached(at_a));
  CHECK_FALSE(reached(at_b));
  CHECK(client.expose(a, 0, 2) == std::unexpected(ECANCELED));
}

TEST_CASE("close during an expose leaves nothing mapped, whatever was under way") {
  ExposingClient client;
  const auto a = file(8), b = file(8), c = file(2);
  client.unexpose(client.expose(a, 0, 4));
  client.watched().late = true;
  std::shared_ptr<std::optional<Offset>> result;
  SECTION("a map of more of it") { result = client.ask(a, 0, 8); }
  SECTION("a map in new room") { result = client.ask(c, 0, 2); }
  SECTION("an unmap, for room") { result = client.ask(b, 0, 8); }
  SECTION("an unmap, for a device that is full") {
    client.watched().refuse = [](const vfio::DmaMap&) { return ENOMEM; };
    result = client.ask(c, 0, 2);
  }
  REQUIRE(client.watched().answers.size() == 1);
  client.maps();
  client.exposures->close(client.self);
  CHECK_FALSE(result->has_value());
  while (!client.watched().answers.empty()) client.watched().answer();
  CHECK(*result == std::unexpected(ECANCELED));
  CHECK(client.used_pages() == 0);
  CHECK(client.maps().empty());
}

TEST_CASE("a client that has ended exposes nothing more, not even what is just being mapped for it") {
  ExposingClient client;
  const auto memory = file(4);
  client.watched().late = true;
  const auto first = client.ask(memory, 0, 4);
  client.exposures->close(client.self);
  CHECK(client.expose(memory, 0, 4) == std::unexpected(ECANCELED));
  CHECK(client.maps().size() == 1);
  client.watched().late = false;
  client.watched().answer();
  CHECK(*first == std::unexpected(ECANCELED));
  CHECK(client.used_pages() == 0);
}
