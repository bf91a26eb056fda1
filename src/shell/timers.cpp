#include "timers.hpp"

#include <utility>

namespace smartio {

void Timers::arm(const core::Arm& effect) {
  disarm(effect.timer);
  const auto due = Clock::now() + effect.after;
  due_.emplace(effect.timer, due);
  queue_.emplace(due, effect.timer);
  set_alarm();
}

void Timers::disarm(const core::Timer& timer) {
  const auto armed = due_.extract(timer);
  if (!armed.empty()) queue_.erase({armed.mapped(), timer});
}

void Timers::clear() {
  due_.clear();
  queue_.clear();
  alarm_.cancel();
  alarm_at_ = Clock::time_point::max();
}

/// It goes off no later than the first is due. When that is put off it stays, and goes off in vain: once, however
/// often.
void Timers::set_alarm() {
  if (queue_.empty() || queue_.begin()->first >= alarm_at_) return;
  alarm_at_ = queue_.begin()->first;
  alarm_.expires_at(alarm_at_);
  alarm_.async_wait([this](boost::system::error_code error) {
    if (!error) fire();
  });
}

/// What is disarmed, or armed again, by one that fires before it is not due any more.
void Timers::fire() {
  const auto now = Clock::now();
  alarm_at_ = now; // set once, at the end
  while (!queue_.empty() && queue_.begin()->first <= now) {
    const auto [due, timer] = *queue_.begin();
    disarm(timer);
    context_.handle(core::TimerFired{timer, std::chrono::duration_cast<std::chrono::milliseconds>(now - due)});
  }
  alarm_at_ = Clock::time_point::max();
  set_alarm();
}

} // namespace smartio
