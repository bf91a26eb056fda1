// Core's timers on the clock: each fires once, when it is due, and not after it was disarmed or put off.
#include "timers.hpp"

#include "catch.hpp"

#include <functional>
#include <thread>
#include <vector>

using namespace smartio;
using namespace std::chrono_literals;
using core::Arm;
using core::Timer;

namespace {

constexpr auto kind = Timer::Kind::silence;

struct Clock {
  std::chrono::steady_clock::time_point made = std::chrono::steady_clock::now();
  boost::asio::io_context io;
  Config config{};
  std::vector<std::uint64_t> fired;
  std::function<void(std::uint64_t)> then = [](std::uint64_t) {}; ///< what core does about it
  Context context{io, config, [this](const core::Event& event) {
                    const auto& timer = std::get<core::TimerFired>(event);
                    CHECK(timer.late >= 0ms);
                    fired.push_back(timer.timer.key);
                    then(timer.timer.key);
                  }};
  Timers timers{context};

  void arm(std::uint64_t key, std::chrono::milliseconds after) { timers.arm(Arm{{kind, key}, after}); }
  void disarm(std::uint64_t key) { timers.disarm({kind, key}); }
  /// Until nothing is armed; at most 20 s. The time since this was made.
  std::chrono::steady_clock::duration run() {
    io.restart();
    io.run_for(20s);
    return std::chrono::steady_clock::now() - made;
  }
};

} // namespace

TEST_CASE("timers fire in the order in which they are due, each once, whatever the order they were armed in") {
  Clock clock;
  clock.arm(3, 60ms);
  clock.arm(1, 20ms);
  clock.arm(2, 40ms);
  CHECK(clock.run() >= 60ms);
  CHECK(clock.fired == std::vector<std::uint64_t>{1, 2, 3});
  clock.run();
  CHECK(clock.fired.size() == 3);
}

TEST_CASE("a timer that is put off, however often, fires once, and not before") {
  Clock clock;
  clock.arm(1, 20ms);
  clock.arm(2, 40ms);
  clock.arm(1, 60ms);
  clock.arm(1, 80ms);
  CHECK(clock.run() >= 80ms);
  CHECK(clock.fired == std::vector<std::uint64_t>{2, 1});
}

TEST_CASE("a timer that is put forward fires then, and not again") {
  Clock clock;
  clock.arm(1, 10s);
  clock.arm(1, 20ms);
  CHECK(clock.run() < 10s);
  CHECK(clock.fired == std::vector<std::uint64_t>{1});
}

TEST_CASE("a timer that was disarmed does not fire, nor one that was put off before") {
  Clock clock;
  clock.arm(1, 20ms);
  clock.arm(2, 20ms);
  clock.arm(2, 40ms);
  clock.arm(3, 60ms);
  clock.disarm(1);
  clock.disarm(2);
  clock.disarm(4);
  clock.run();
  CHECK(clock.fired == std::vector<std::uint64_t>{3});
}

TEST_CASE("of two timers that are due at once, the first may disarm the other, put it off, or arm itself again") {
  Clock clock;
  const auto both = [&clock](std::function<void(std::uint64_t)> then) {
    clock.fired.clear();
    clock.then = std::move(then);
    clock.arm(1, 10ms);
    clock.arm(2, 11ms);
    std::this_thread::sleep_for(30ms); // this program did not run
    clock.run();
    return clock.fired;
  };
  using Fired = std::vector<std::uint64_t>;
  CHECK(both([](auto) {}) == Fired{1, 2});
  CHECK(both([&clock](auto) { clock.disarm(2); }) == Fired{1});
  CHECK(both([&clock](auto key) {
          if (key == 1) clock.arm(2, 20ms);
          if (key == 1) clock.arm(3, 5ms);
        }) == Fired{1, 3, 2});
  CHECK(both([&clock](auto key) {
          if (key == 1 && clock.fired.size() == 1) clock.arm(1, 5ms);
        }) == Fired{1, 2, 1});
}

TEST_CASE("nothing fires once all were cleared") {
  Clock clock;
  clock.arm(1, 20ms);
  clock.arm(2, 20ms);
  clock.then = [&clock](auto) { clock.timers.clear(); };
  clock.run();
  CHECK(clock.fired == std::vector<std::uint64_t>{1});
}
