// Virtual time, and a network between nodes in it: connections that delay what they carry (each direction in order, one
// connection before or after another), fall silent, or are cut with everything that is on its way.
#pragma once

#include "events.hpp"

#include <functional>
#include <map>
#include <random>
#include <set>

namespace smartio::core::test {

using std::chrono::milliseconds;

/// What is to happen, in order of time; what happens at the same time, in order of asking.
class Clock {
public:
  using Key = std::pair<milliseconds, std::uint64_t>;

  milliseconds now{};

  Key at(milliseconds time, std::function<void()> what) {
    const Key key{std::max(time, now), next_++};
    queue_[key] = std::move(what);
    return key;
  }
  Key after(milliseconds delay, std::function<void()> what) { return at(now + delay, std::move(what)); }
  void forget(const Key& key) { queue_.erase(key); }
  /// What was to happen then happens now, once.
  void hurry(const Key& key) {
    if (auto early = queue_.extract(key); !early.empty()) after({}, std::move(early.mapped()));
  }
  bool idle() const { return queue_.empty(); }
  /// Lets the next thing happen.
  void step() {
    auto next = queue_.extract(queue_.begin());
    now = next.key().first;
    next.mapped()();
  }

private:
  std::map<Key, std::function<void()>> queue_;
  std::uint64_t next_ = 0;
};

/// Repeatable chance.
class Dice {
public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t bound) { return engine_() % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  milliseconds within(std::uint64_t most) { return milliseconds{below(most + 1)}; }
  template <class T> auto& of(T& items) {
    return *std::next(items.begin(), static_cast<std::ptrdiff_t>(below(items.size())));
  }

private:
  std::mt19937_64 engine_;
};

/// One connection: the two ends' names for it, and what is under way.
struct Connection {
  struct End {
    unsigned host;
    LinkId link;
    bool open = true;
    milliseconds last{};             ///< when the last message that was sent to it arrives
    std::set<std::uint64_t> asked{}; ///< numbers of its requests that are not answered yet
  };
  End ends[2];
  bool silent = false; ///< nothing arrives any more, and nobody is told
};

} // namespace smartio::core::test
