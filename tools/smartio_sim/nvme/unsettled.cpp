#include "unsettled.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

void UnsettledCommands::add(unsigned queue, const SubmissionEntry& command) {
  commands_.push_back({queue, command, flusher_.start()});
}

bool UnsettledCommands::complete(Logs& logs) {
  while (!commands_.empty() && commands_.front().flush->done()) {
    const Waiting settled = std::move(commands_.front());
    commands_.pop_front();
    const Status status = settled.flush->get() == 0 ? Status::success : Status::write_fault;
    if (status != Status::success)
      logs.add_error(static_cast<std::uint16_t>(settled.queue), settled.command, status, queues_.phase(settled.queue));
    if (!queues_.complete(settled.queue, settled.command.command_id, {status})) return false;
  }
  return true;
}

bool UnsettledCommands::abort(unsigned queue) {
  bool posted = true;
  for (const Waiting& waiting : commands_) {
    if (waiting.queue == queue)
      posted = queues_.complete(queue, waiting.command.command_id, {Status::aborted_by_deletion}) && posted;
  }
  std::erase_if(commands_, [queue](const Waiting& waiting) { return waiting.queue == queue; });
  return posted;
}

} // namespace smartio::sim::nvme
