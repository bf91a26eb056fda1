#include "events.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace smartio::sim::nvme {

bool Events::request(std::uint16_t command_id) {
  if (requests_.size() > event_limit) return false;
  requests_.push_back(command_id);
  return true;
}

bool Events::cancel(std::uint16_t command_id) {
  const auto found = std::find(requests_.begin(), requests_.end(), command_id);
  if (found == requests_.end()) return false;
  requests_.erase(found);
  return true;
}

void Events::raise(ErrorEvent event) {
  types_[0].happened = static_cast<std::uint8_t>(types_[0].happened | 1U << std::to_underlying(event));
}

void Events::raise(HealthEvent event) {
  types_[1].happened = static_cast<std::uint8_t>(types_[1].happened | 1U << std::to_underlying(event));
}

void Events::log_read(EventType type) { types_[std::to_underlying(type)].reported = false; }

std::optional<Events::Report> Events::next() {
  if (requests_.empty()) return std::nullopt;
  for (std::uint32_t type = 0; type < types_.size(); ++type) {
    Type& state = types_[type];
    if (state.reported || state.happened == 0) continue;
    const auto information = static_cast<std::uint32_t>(std::countr_zero(state.happened));
    state.happened = static_cast<std::uint8_t>(state.happened & (state.happened - 1));
    state.reported = true;
    const Report report{requests_.front(), type | information << 8 | static_cast<std::uint32_t>(state.log_page) << 16};
    requests_.erase(requests_.begin());
    return report;
  }
  return std::nullopt;
}

void Events::reset() { *this = Events(); }

} // namespace smartio::sim::nvme
