// Events of a node, and calls that return at once, for programs with a loop of their own.
#include "checks.hpp"
#include "event_queue.hpp"
#include "own_nodes.hpp"

#include <atomic>
#include <csignal>
#include <future>
#include <set>
#include <smartio/smartio.hpp>
#include <stdexcept>
#include <vector>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

/// Waits for the next event, or the end.
Result<Event> next(Events& events) {
  for (;;) {
    auto event = events.next();
    if (!event) return std::unexpected(event.error());
    if (*event) return std::move(**event);
    if (!readable(events.fd(), 20000)) return std::unexpected(Error{make_error_code(Errc::timed_out), "no event"});
  }
}

core::Json numbered(unsigned number) { return {{"seq", number}, {"event", "something"}}; }

} // namespace

TEST_CASE("events begin with what there is, and go on with what happens") {
  const SimulatedDisk disk;
  const Place place;
  const auto started = start_node(8, place);
  const auto node = GENERATE(false, true) ? Node::attach(place.path).value() : started;
  auto events = node.events().value(), others = node.events().value();
  const auto first = next(events).value();
  CHECK(first.kind == "snapshot");
  CHECK_FALSE(first.device);
  CHECK(core::Json::parse(first.json)["devices"].empty());
  CHECK(events.next().value() == std::nullopt);
  CHECK_FALSE(readable(events.fd()));

  const auto id = node.add(disk.address()).value();
  const auto added = next(events).value();
  CHECK(added.kind == "device-added");
  CHECK(added.device == id);
  CHECK(node.remove(id)); // from where events are read a program may call
  CHECK(next(events).value().kind == "device-removed");
  CHECK(next(others).value().kind == "snapshot");
  CHECK(next(others).value().kind == "device-added");
}

TEST_CASE("events end with the node, and say so for good") {
  const Place place;
  const auto node = start_node(8, place);
  const bool is_attached = GENERATE(false, true);
  auto events = (is_attached ? Node::attach(place.path).value() : node).events().value();
  REQUIRE(next(events));
  REQUIRE(node.stop());
  for (unsigned twice = 0; twice < 2; ++twice) {
    CHECK(fails_with(next(events), Errc::peer_down));
    CHECK(readable(events.fd()));
  }
}

TEST_CASE("events may be dropped at any time, before and after their node") {
  const Place place;
  auto node = std::make_unique<Node>(start_node(8, place));
  auto first = std::make_unique<Events>(node->events().value());
  auto second = std::make_unique<Events>(node->events().value());
  first.reset();
  CHECK(node->set_option("peer-timeout", "2500"));
  node.reset();
  CHECK(next(*second).value().kind == "snapshot");
  CHECK(fails_with(next(*second), Errc::peer_down));
  second.reset();
}

TEST_CASE("what happened before the snapshot is not told again") {
  detail::EventQueue queue(make_eventfd().value());
  for (const unsigned number : {1U, 2U, 3U}) queue.push(numbered(number));
  queue.start({{"seq", 2}});
  for (const unsigned number : {2U, 4U}) queue.push(numbered(number)); // late
  CHECK(queue.next().value().value().kind == "snapshot");
  for (const unsigned number : {3U, 4U}) CHECK(queue.next().value().value().json["seq"] == number);
  CHECK_FALSE(queue.next().value());
}

TEST_CASE("events that nobody fetches end, after those that were kept") {
  detail::EventQueue queue(make_eventfd().value());
  for (unsigned number = 0; number <= detail::EventQueue::most; ++number) queue.push(numbered(number + 1));
  for (unsigned number = 0; number < detail::EventQueue::most; ++number) {
    const auto event = queue.next();
    REQUIRE(event);
    REQUIRE((*event)->json["seq"] == number + 1);
  }
  CHECK(readable(queue.fd()));
  CHECK(fails_with(queue.next(), Errc::no_window));
  queue.push(numbered(7));
  queue.end(Error{make_error_code(Errc::peer_down), "later"});
  CHECK(fails_with(queue.next(), Errc::no_window));
}

TEST_CASE("a call that takes long returns at once, and is readable when it is ready") {
  const SimulatedDisk disk;
  const Place place;
  const auto node = start_node(8, place);
  const auto id = node.add(disk.address()).value();
  auto available = async([node, id] { return node.make_available(id); }).value();
  REQUIRE(readable(available.fd(), 20000));
  CHECK(available.ready());
  CHECK(available.get());
  CHECK_FALSE(available);
  auto borrowed = async([node, id] { return node.borrow(id); }).value();
  CHECK(borrowed.get().value().info().id == id); // waits
}

TEST_CASE("a call's thread takes the signals that it raises itself, and no others") {
  auto call = async([] {
    ::sigset_t mask;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return std::vector{sigismember(&mask, SIGBUS), sigismember(&mask, SIGSEGV), sigismember(&mask, SIGTERM),
                       sigismember(&mask, SIGCHLD)};
  });
  CHECK(call.value().get() == std::vector{0, 0, 1, 1});
}

TEST_CASE("what a call's function holds is gone before the call is ready") {
  struct Held {
    std::shared_future<int> fd;
    std::shared_ptr<std::atomic<bool>> too_late;
    ~Held() { *too_late = readable(fd.get()); }
  };
  std::promise<int> fd;
  const auto too_late = std::make_shared<std::atomic<bool>>(true);
  auto held = std::make_shared<Held>(fd.get_future().share(), too_late);
  auto call = async([held = std::move(held)] { return held->fd.get(); }).value();
  fd.set_value(call.fd());
  CHECK(call.get() >= 0);
  CHECK_FALSE(*too_late);
}

TEST_CASE("what a call throws is thrown where its result is fetched") {
  auto call = async([]() -> int { throw std::runtime_error("no"); }).value();
  CHECK_THROWS_WITH(call.get(), "no");
}

TEST_CASE("a device that a dropped call borrows goes back") {
  const SimulatedDisk disk;
  const Place place;
  const auto node = start_node(8, place);
  const auto id = node.add(disk.address()).value();
  REQUIRE(node.make_available(id));
  auto events = node.events().value();
  (void)async([node, id] { return node.borrow(id); }).value();
  std::set<std::string> kinds;
  while (!kinds.contains("loan-ended") || !kinds.contains("device-available")) kinds.insert(next(events).value().kind);
  CHECK(kinds.contains("device-borrowed"));
  CHECK(node.stop()); // the call's thread may have the last copy
}
