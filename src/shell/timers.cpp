#include "timers.hpp"

namespace smartio {

void Timers::arm(const core::Arm& effect) {
  auto& alarm = alarms_.try_emplace(effect.timer, Alarm{boost::asio::steady_timer(context_.io), 0}).first->second;
  alarm.generation = next_generation_++;
  alarm.timer.expires_after(effect.after);
  alarm.timer.async_wait([this, timer = effect.timer, generation = alarm.generation](boost::system::error_code error) {
    if (!error) fired(timer, generation);
  });
}

void Timers::fired(const core::Timer& timer, std::uint64_t generation) {
  const auto armed = alarms_.find(timer);
  if (armed == alarms_.end() || armed->second.generation != generation) return;
  const auto late = std::chrono::steady_clock::now() - armed->second.timer.expiry();
  const auto key = armed->first;
  alarms_.erase(armed);
  context_.handle(core::TimerFired{key, std::chrono::duration_cast<std::chrono::milliseconds>(late)});
}

} // namespace smartio
