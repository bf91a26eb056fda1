// Core's timers.
#pragma once

#include "context.hpp"

#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <map>

namespace smartio {

class Timers {
public:
  explicit Timers(Context& context) : context_(context) {}

  /// Core is told TimerFired once, unless it is disarmed, or armed again, before.
  void arm(const core::Arm& effect);
  void disarm(const core::Timer& timer) { alarms_.erase(timer); }
  void clear() { alarms_.clear(); }

private:
  struct Alarm {
    boost::asio::steady_timer timer;
    std::uint64_t generation; ///< an expiry that was on its way when the timer was armed again is told apart by it
  };
  void fired(const core::Timer& timer, std::uint64_t generation);

  Context& context_;
  std::map<core::Timer, Alarm> alarms_;
  std::uint64_t next_generation_ = 1;
};

} // namespace smartio
