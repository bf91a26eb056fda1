// Core's timers.
#pragma once

#include "context.hpp"

#include <boost/asio/steady_timer.hpp>
#include <map>
#include <set>

namespace smartio {

/// A table of what is due when, and one timer of the system for all: those of peers are put off with each message.
class Timers {
public:
  explicit Timers(Context& context) : context_(context), alarm_(context.io) {}

  /// Core is told TimerFired once, unless it is disarmed, or armed again, before.
  void arm(const core::Arm& effect);
  void disarm(const core::Timer& timer);
  void clear();

private:
  using Clock = std::chrono::steady_clock;
  bool move_first();
  void set_alarm();
  void fire();

  Context& context_;
  struct Armed {
    Clock::time_point due, queued; ///< the latter: no later
  };
  std::map<core::Timer, Armed> armed_;
  std::set<std::pair<Clock::time_point, core::Timer>> queue_; ///< in order of `queued`
  boost::asio::steady_timer alarm_;
  Clock::time_point alarm_at_ = Clock::time_point::max(); ///< it goes off: never
};

} // namespace smartio
