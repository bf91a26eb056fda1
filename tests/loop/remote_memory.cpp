// Memory of a borrower that a device reaches over a path: mapped once, given up when the lender has let go.
#include "any_client.hpp"
#include "remote_session.hpp"
#include "user/codec.hpp"

using namespace smartio;
using namespace smartio::testing;
using Session = RemoteSession;

TEST_CASE("memory is refused when the lender cannot give its device the aperture, and may be dropped") {
  Session session;
  const auto memory = make_memfd("memory", 8 * page).value(), other = make_memfd("memory", 8 * page).value();
  for (const auto* refused : {&memory, &other, &memory}) { // there is room for one of them only
    const auto reply = session.map(page, *refused, 0, 8 * page);
    REQUIRE_FALSE(reply.has_value());
    CHECK(reply.error() == EOPNOTSUPP);
  }
  CHECK(session.lent->windows.empty());
  session.device->close();
  CHECK(session.a->used_bytes() == 0);
}

TEST_CASE("memory that is unmapped and mapped again, in other pieces, is mapped once at the path") {
  Session session(true);
  const auto memory = make_memfd("memory", 8 * page).value();
  const auto unmap = [&session] { return session.ask(vfio::DmaUnmap{Iova{}, 0, true}).has_value(); };
  REQUIRE(session.map(0, memory, 0, 8 * page));
  session.a->watched()->maps.clear();
  REQUIRE(unmap());
  CHECK(session.lent->windows.empty());
  CHECK(session.a->used_bytes() == 8 * page);
  REQUIRE(session.map(0, memory, 0, 2 * page));
  REQUIRE(session.map(0x10000, memory, 3 * page, 5 * page));
  CHECK(session.lent->windows.size() == 2);
  CHECK(session.a->watched()->maps.empty());
  CHECK(session.a->watched()->unmaps == 0);
  REQUIRE(unmap());
  const auto large = make_memfd("memory", 14 * page).value();
  REQUIRE(session.map(0, large, 0, 14 * page)); // what is unused makes room
  CHECK(session.a->used_bytes() == 14 * page);
}

TEST_CASE("an unmap is answered and its memory given up only when the lender has unmapped it") {
  Session session(true);
  const auto memory = make_memfd("memory", 8 * page).value(), other = make_memfd("memory", 8 * page).value();
  REQUIRE(session.map(0, memory, 0, 8 * page));
  session.lent->refuse = [](const vfio::Request& request) {
    return std::holds_alternative<vfio::DmaUnmap>(request) ? EIO : 0;
  };
  CHECK(session.ask(vfio::DmaUnmap{Iova{}, 8 * page}).error() == EIO);
  CHECK(session.map(0x10000, other, 0, 8 * page).error() == ENOSPC);
  session.lent->refuse = nullptr;
  REQUIRE(session.ask(vfio::DmaUnmap{Iova{}, 8 * page}));
  CHECK(session.map(0x10000, other, 0, 8 * page));
}

TEST_CASE("memory that cannot stay is unmapped at the path, too, when the unmap is answered") {
  Session session(true);
  session.a->watched()->pretend = true;
  const auto memory = make_eventfd().value(); // as a dma-buf: no regular file
  REQUIRE(session.map(0, memory, 0, page));
  session.a->watched()->late = true;
  bool answered = false;
  session.device->submit(vfio::DmaUnmap{Iova{}, page}, [&answered](const vfio::Reply& reply) {
    CHECK(reply.has_value());
    answered = true;
  });
  REQUIRE(session.reach([&session] { return !session.a->watched()->answers.empty(); }));
  CHECK(session.lent->windows.empty());
  CHECK_FALSE(answered);
  session.a->watched()->answer();
  CHECK(answered);
  CHECK(session.a->used_bytes() == 0);
}

TEST_CASE("what a range does not hold stays at the path when the range is unmapped") {
  Session session(true);
  session.a->watched()->pretend = true;
  for (const std::uint64_t iova : {std::uint64_t{0}, 2 * page, 4 * page}) // nothing of it stays without a use
    REQUIRE(session.map(iova, make_eventfd().value(), 0, page));
  const auto used = session.a->used_bytes();
  REQUIRE(session.ask(vfio::DmaUnmap{Iova{2 * page}, 2 * page}));
  CHECK(session.a->used_bytes() == used / 3 * 2);
  REQUIRE(session.ask(vfio::DmaUnmap{Iova{}, 2 * page}));
  CHECK(session.a->used_bytes() == used / 3);
  REQUIRE(session.ask(vfio::DmaUnmap{Iova{}, 0, true}));
  CHECK(session.a->used_bytes() == 0);
}

TEST_CASE("a second window at the same address is refused, and the first stays") {
  Session session(true);
  const auto memory = make_memfd("memory", 8 * page).value(), other = make_memfd("memory", 8 * page).value();
  REQUIRE(session.map(0, memory, 0, 8 * page));
  CHECK(session.map(0, memory, 0, page).error() == EEXIST);
  CHECK(session.ask(vfio::DmaMap{Iova{}, page, Access::read_write, {}, 0}).error() == EEXIST);
  CHECK(session.lent->windows.size() == 1);
  CHECK(session.map(0x10000, other, 0, 8 * page).error() == ENOSPC); // its room is in use
}

TEST_CASE("more memory than the window has room for is refused") {
  Session session;
  const auto memory = make_memfd("memory", page).value();
  const auto size = MemoryPath::window_bytes;
  const auto reply = session.ask(vfio::DmaMap{Iova{page}, size, Access::read, memory.duplicate().value(), 0});
  REQUIRE_FALSE(reply.has_value());
  CHECK(reply.error() == ENOSPC);
}

TEST_CASE("memory that the path refuses is refused with the same error, and the lender hears nothing of it") {
  Session session(true);
  const auto memory = make_memfd("memory", page).value();
  session.a->watched()->refuse = [](const auto&) { return EPERM; };
  CHECK(session.map(page, memory, 0, page).error() == EPERM);
  CHECK(session.a->used_bytes() == 0);
  CHECK(session.lent->windows.empty());
  session.a->watched()->refuse = nullptr;
  CHECK(session.map(page, memory, 0, page));
}

TEST_CASE("memory that is being exposed when the path goes down is not left behind") {
  Session session(true);
  const auto memory = make_memfd("memory", page).value();
  auto& path = *session.a->watched();
  path.late = true;
  std::optional<vfio::Reply> reply;
  session.device->submit(vfio::DmaMap{Iova{}, page, Access::read_write, memory.duplicate().value(), 0},
                         [&reply](vfio::Reply answer) { reply.emplace(std::move(answer)); });
  REQUIRE(path.answers.size() == 1);
  session.a->go_down("it is silent");
  session.device->lose();
  CHECK((reply && !*reply && reply->error() == ECANCELED));
  path.late = false;
  path.answer();
  CHECK(session.a->used_bytes() == 0);
  CHECK(path.unmaps == 1);
}
