#include "admin.hpp"

namespace smartio::sim::nvme {

/// Common checks of both kinds of queue: physically contiguous, page aligned, a size we have.
Status AdminCommands::check_queue(const SubmissionEntry& command, std::uint32_t entry_size,
                                  std::uint32_t wanted_size) const {
  const std::uint32_t entries = (command.cdw10 >> 16) + 1;
  if (entries < 2 || entries > shape_.queue_entries || entry_size != wanted_size) return Status::invalid_queue_size;
  if ((command.cdw11 & 1) == 0) return Status::invalid_field; // CAP.CQR
  return command.prp1 % page_size != 0 ? Status::invalid_prp_offset : Status::success;
}

std::optional<Ended> AdminCommands::execute(const SubmissionEntry& command) {
  if ((command.flags & fuse_and_psdt) != 0) return Ended{{Status::invalid_field}};
  switch (command.opcode) {
  case admin_opcode::delete_sq: return Ended{{delete_submission_queue(command)}};
  case admin_opcode::create_sq: return Ended{{create_submission_queue(command)}};
  case admin_opcode::delete_cq: return Ended{{delete_completion_queue(command)}};
  case admin_opcode::create_cq: return Ended{{create_completion_queue(command)}};
  case admin_opcode::get_log_page: return Ended{{get_log_page(command)}};
  case admin_opcode::identify: return Ended{{identify(command)}};
  case admin_opcode::abort: return Ended{abort(command)};
  case admin_opcode::set_features: return set_features(command);
  case admin_opcode::get_features: return Ended{features_.get(command)};
  case admin_opcode::async_event:
    if (!events_.request(command.command_id)) return Ended{{Status::event_limit_exceeded}};
    return std::nullopt;
  default: return Ended{{Status::invalid_opcode}};
  }
}

Status AdminCommands::create_completion_queue(const SubmissionEntry& command) {
  const unsigned id = command.cdw10 & 0xffff, vector = command.cdw11 >> 16;
  const bool interrupts = (command.cdw11 & 2) != 0;
  if (id == 0 || id > io_queues || queues_.completion(id) != nullptr) return Status::invalid_queue_id;
  const Status status = check_queue(command, 1U << (cc_ >> 20 & 0xf), sizeof(CompletionEntry));
  if (status != Status::success) return status;
  if (interrupts && vector >= std::max(1U, shape_.vectors)) return Status::invalid_vector;
  queues_.create_completion(id, command.prp1, (command.cdw10 >> 16) + 1,
                            interrupts ? std::optional(vector) : std::nullopt);
  return Status::success;
}

Status AdminCommands::create_submission_queue(const SubmissionEntry& command) {
  const unsigned id = command.cdw10 & 0xffff, completion = command.cdw11 >> 16;
  if (id == 0 || id > io_queues || queues_.submission(id) != nullptr) return Status::invalid_queue_id;
  if (completion == 0 || completion > io_queues) return Status::invalid_queue_id; // 0: the admin queue's
  if (queues_.completion(completion) == nullptr) return Status::completion_queue_invalid;
  const Status status = check_queue(command, 1U << (cc_ >> 16 & 0xf), sizeof(SubmissionEntry));
  if (status != Status::success) return status;
  queues_.create_submission(id, command.prp1, (command.cdw10 >> 16) + 1, completion);
  return Status::success;
}

Status AdminCommands::delete_submission_queue(const SubmissionEntry& command) {
  const unsigned id = command.cdw10 & 0xffff;
  if (id == 0 || queues_.submission(id) == nullptr) return Status::invalid_queue_id;
  while (const auto aborted = unsettled_.take_from(id)) {
    if (!queues_.complete(id, aborted->entry.command_id, {Status::aborted_by_deletion})) return Status::internal_error;
  }
  queues_.delete_submission(id);
  return Status::success;
}

Status AdminCommands::delete_completion_queue(const SubmissionEntry& command) {
  const unsigned id = command.cdw10 & 0xffff;
  if (id == 0 || queues_.completion(id) == nullptr) return Status::invalid_queue_id;
  if (queues_.completion(id)->users != 0) return Status::invalid_queue_deletion;
  queues_.delete_completion(id);
  return Status::success;
}

Status AdminCommands::identify(const SubmissionEntry& command) {
  switch (command.cdw10 & 0xff) {
  case 0x00:
    if (!identity_.has(command.nsid)) return Status::invalid_namespace;
    return write_prps(memory_, command, identify_namespace(identity_));
  case 0x01: return write_prps(memory_, command, identify_controller(identity_));
  case 0x02:
    if (command.nsid >= 0xfffffffe) return Status::invalid_namespace;
    return write_prps(memory_, command, namespace_list(identity_, command.nsid));
  case 0x03:
    if (!identity_.has(command.nsid)) return Status::invalid_namespace;
    return write_prps(memory_, command, namespace_descriptors(identity_, command.nsid));
  default: return Status::invalid_field;
  }
}

Status AdminCommands::get_log_page(const SubmissionEntry& command) {
  const auto id = static_cast<std::uint8_t>(command.cdw10);
  const std::uint64_t offset = static_cast<std::uint64_t>(command.cdw13) << 32 | command.cdw12;
  const std::uint64_t dwords = ((static_cast<std::uint64_t>(command.cdw11 & 0xffff) << 16) | command.cdw10 >> 16) + 1;
  std::vector<std::byte> page;
  switch (id) {
  case 0x01: page = logs_.error_page(); break;
  case 0x02: page = logs_.health_page(features_.over_temperature(), features_.under_temperature()); break;
  case 0x03: page = Logs::firmware_page(); break;
  case 0x05: page = Logs::effects_page(); break;
  default: return Status::invalid_log_page;
  }
  if (id == 0x02 && identity_.has(command.nsid)) return Status::invalid_field; // health is the controller's only
  if (command.nsid > identity_.namespaces && command.nsid != all_namespaces) return Status::invalid_namespace;
  if (offset % 4 != 0 || offset > page.size() || dwords * 4 > max_transfer) return Status::invalid_field;
  page.erase(page.begin(), page.begin() + static_cast<std::ptrdiff_t>(offset));
  page.resize(dwords * 4); // beyond the end: zeros
  const Status status = write_prps(memory_, command, page);
  const bool retain = (command.cdw10 & 0x8000) != 0;
  if (status == Status::success && !retain && id <= 0x02)
    events_.log_read(id == 0x01 ? EventType::error : EventType::health);
  return status;
}

Outcome AdminCommands::abort(const SubmissionEntry& command) {
  const unsigned sq = command.cdw10 & 0xffff;
  const auto id = static_cast<std::uint16_t>(command.cdw10 >> 16);
  constexpr std::uint32_t aborted = 0, not_aborted = 1;
  // Whatever else was fetched has been completed: only event requests stay.
  if (sq != 0 || !events_.cancel(id)) return {Status::success, not_aborted};
  queues_.complete(0, id, {Status::abort_requested});
  return {Status::success, aborted};
}

/// Switching the write cache off promises that nothing is left in it: hosts send no Flush from then on.
Ended AdminCommands::set_features(const SubmissionEntry& command) {
  const bool had_cache = features_.write_cache();
  const Outcome outcome = features_.set(command, queues_.have_io_queues());
  const auto id = static_cast<std::uint8_t>(command.cdw10);
  const bool concerns = id == feature::temperature_threshold || id == feature::event_configuration;
  if (outcome.status == Status::success && concerns && features_.temperature_event())
    events_.raise(HealthEvent::temperature);
  return {outcome, had_cache && !features_.write_cache()};
}

} // namespace smartio::sim::nvme
