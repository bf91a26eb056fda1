#include "timers.hpp"

#include <utility>

namespace smartio {

/// One that is put off keeps its place in the queue until its turn comes: that is what happens most.
void Timers::arm(const core::Arm& effect) {
  const auto due = Clock::now() + effect.after;
  if (const auto armed = armed_.find(effect.timer); armed != armed_.end() && armed->second.queued <= due) {
    armed->second.due = due;
    return;
  }
  disarm(effect.timer);
  armed_[effect.timer] = {due, due};
  queue_.emplace(due, effect.timer);
  set_alarm();
}

void Timers::disarm(const core::Timer& timer) {
  const auto armed = armed_.extract(timer);
  if (!armed.empty()) queue_.erase({armed.mapped().queued, timer});
}

void Timers::clear() {
  armed_.clear();
  queue_.clear();
  alarm_.cancel();
  alarm_at_ = Clock::time_point::max();
}

/// Whether the first of the queue had been put off: then it goes to where it belongs.
bool Timers::move_first() {
  auto& armed = armed_.at(queue_.begin()->second);
  if (armed.due == armed.queued) return false;
  auto place = queue_.extract(queue_.begin());
  place.value().first = armed.queued = armed.due;
  queue_.insert(std::move(place));
  return true;
}

/// It is set to when one is due in fact. If that is put off later, it goes off in vain: once, however often.
void Timers::set_alarm() {
  while (!queue_.empty() && move_first()) {}
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
    if (move_first()) continue;
    const auto [due, timer] = *queue_.begin();
    disarm(timer);
    context_.handle(core::TimerFired{timer, std::chrono::duration_cast<std::chrono::milliseconds>(now - due)});
  }
  alarm_at_ = Clock::time_point::max();
  set_alarm();
}

} // namespace smartio
