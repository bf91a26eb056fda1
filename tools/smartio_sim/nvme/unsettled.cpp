#include "unsettled.hpp"

#include <algorithm>
#include <utility>

namespace smartio::sim::nvme {

void UnsettledCommands::add(unsigned queue, const SubmissionEntry& entry, Ended ended, Clock::time_point due) {
  const Outcome outcome = ended.outcome;
  step(commands_.emplace_back(Waiting{{queue, entry, outcome}, std::move(ended), due}), false);
}

bool UnsettledCommands::advance() {
  bool zeroed = false;
  for (Waiting& waiting : commands_) zeroed = step(waiting, !zeroed) || zeroed;
  return zeroed;
}

/// Zeroes a piece, if there is one and it may; then flushes; then looks whether that is done.
bool UnsettledCommands::step(Waiting& waiting, bool may_zero) {
  const bool zeroes = may_zero && !waiting.left.zero.empty();
  if (zeroes) zero_piece(waiting);
  Outcome& outcome = waiting.command.outcome;
  if (waiting.left.zero.empty() && std::exchange(waiting.left.settle, false) && outcome.status == Status::success)
    waiting.flush = flusher_.start();
  if (!waiting.flush || !waiting.flush->done()) return zeroes;
  if (waiting.flush->get() != 0)
    outcome.status = waiting.command.queue == 0 ? Status::internal_error : Status::write_fault;
  waiting.flush.reset();
  return zeroes;
}

void UnsettledCommands::zero_piece(Waiting& waiting) {
  auto& ranges = waiting.left.zero;
  Blocks& range = ranges.back();
  const std::uint64_t count = std::min(range.count, piece / store_.block_size());
  const int error = store_.zero(range.first, count, waiting.left.deallocate);
  range.first += count;
  range.count -= count;
  if (range.count == 0) ranges.pop_back();
  if (error == 0) return;
  waiting.command.outcome.status = status_of(error, Status::write_fault);
  ranges.clear();
}

std::optional<UnsettledCommands::Command> UnsettledCommands::take(Clock::time_point now) {
  const auto found = std::find_if(commands_.begin(), commands_.end(),
                                  [now](const Waiting& waiting) { return waiting.done() && waiting.due <= now; });
  if (found == commands_.end()) return std::nullopt;
  const Command command = found->command;
  commands_.erase(found);
  return command;
}

std::optional<UnsettledCommands::Command> UnsettledCommands::take_from(unsigned queue) {
  const auto found = std::find_if(commands_.begin(), commands_.end(),
                                  [queue](const Waiting& waiting) { return waiting.command.queue == queue; });
  if (found == commands_.end()) return std::nullopt;
  const Command command = found->command;
  commands_.erase(found);
  return command;
}

bool UnsettledCommands::settling() const noexcept {
  return !std::all_of(commands_.begin(), commands_.end(), [](const Waiting& waiting) { return waiting.done(); });
}

} // namespace smartio::sim::nvme
