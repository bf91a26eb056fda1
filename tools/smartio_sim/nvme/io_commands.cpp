#include "io_commands.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

namespace {

constexpr std::uint32_t force_unit_access = 1U << 30, deallocate_bit = 1U << 25; // of command dword 12

constexpr bool forces_unit_access(const SubmissionEntry& command) { return (command.cdw12 & force_unit_access) != 0; }

} // namespace

/// The blocks of a command, as it names them.
bool IoCommands::in_namespace(Blocks blocks) const { return in_range(blocks.first, blocks.count, identity_.blocks); }

Ended IoCommands::execute(const SubmissionEntry& command) {
  if ((command.flags & fuse_and_psdt) != 0) return {{Status::invalid_field}};
  switch (command.opcode) {
  case io_opcode::read:
  case io_opcode::write:
  case io_opcode::compare:
  case io_opcode::write_zeroes:
  case io_opcode::flush:
  case io_opcode::dataset_management: break;
  default: return {{Status::invalid_opcode}};
  }
  const bool is_flush = command.opcode == io_opcode::flush;
  if (!identity_.has(command.nsid) && !(is_flush && command.nsid == all_namespaces))
    return {{Status::invalid_namespace}};
  if (is_flush) return {{Status::success}, true};
  if (command.opcode == io_opcode::dataset_management) return dataset_management(command);
  const Blocks blocks{static_cast<std::uint64_t>(command.cdw11) << 32 | command.cdw10, (command.cdw12 & 0xffff) + 1};
  if (!in_namespace(blocks)) return {{Status::lba_out_of_range}};
  return transfer(command, {start_of(command.nsid) + blocks.first, blocks.count});
}

/// `blocks` are the store's.
Ended IoCommands::transfer(const SubmissionEntry& command, Blocks blocks) {
  Ended ended;
  switch (command.opcode) {
  case io_opcode::read: ended.outcome.status = read(command, blocks); break;
  case io_opcode::write: ended.outcome.status = write(command, blocks); break;
  case io_opcode::compare: ended.outcome.status = compare(command, blocks); break;
  default: ended.deallocate = (command.cdw12 & deallocate_bit) != 0; ended.zero = {blocks};
  }
  ended.settle = ended.outcome.status == Status::success && settles(command);
  return ended;
}

/// With Force Unit Access, or without a write cache, data is on the medium before the command completes: what is
/// written, and what is read, which may be in the cache yet (1.4, 6.9). A forced write is there when it returns.
bool IoCommands::settles(const SubmissionEntry& command) const {
  const bool forced = forces_unit_access(command);
  switch (command.opcode) {
  case io_opcode::write: return !forced && !features_.write_cache();
  case io_opcode::write_zeroes: return forced || !features_.write_cache();
  default: return forced;
  }
}

Status IoCommands::locate(const SubmissionEntry& command, Blocks blocks, Access access) {
  const std::uint64_t bytes = blocks.count * store_.block_size();
  if (bytes > max_transfer) return Status::invalid_field;
  pieces_.clear();
  return locate_prps(memory_, command.prp1, command.prp2, bytes, access, pieces_);
}

Status IoCommands::read(const SubmissionEntry& command, Blocks blocks) {
  if (const Status status = locate(command, blocks, Access::write); status != Status::success) return status;
  ++logs_.health.reads;
  logs_.health.units_read += blocks.count * store_.block_size() / 512;
  return status_of(store_.read(blocks.first, pieces_), Status::unrecovered_read);
}

Status IoCommands::write(const SubmissionEntry& command, Blocks blocks) {
  if (const Status status = locate(command, blocks, Access::read); status != Status::success) return status;
  ++logs_.health.writes;
  logs_.health.units_written += blocks.count * store_.block_size() / 512;
  const auto until = forces_unit_access(command) ? Store::Until::stable : Store::Until::cached;
  const int error = store_.write(blocks.first, pieces_, until);
  if (error == EIO && until == Store::Until::stable) flusher_.lost(error); // it may have been told of other data, too
  return status_of(error, Status::write_fault);
}

Status IoCommands::compare(const SubmissionEntry& command, Blocks blocks) {
  if (const Status status = locate(command, blocks, Access::read); status != Status::success) return status;
  const std::uint64_t bytes = blocks.count * store_.block_size();
  left_.resize(bytes);
  right_.resize(bytes);
  iovec stored{left_.data(), left_.size()};
  if (const int number = store_.read(blocks.first, std::span(&stored, 1)); number != 0)
    return status_of(number, Status::unrecovered_read);
  if (const Status status = read_prps(memory_, command, right_); status != Status::success) return status;
  ++logs_.health.reads;
  logs_.health.units_read += bytes / 512;
  return left_ == right_ ? Status::success : Status::compare_failure;
}

Ended IoCommands::dataset_management(const SubmissionEntry& command) {
  struct Range {
    std::uint32_t attributes, blocks;
    std::uint64_t first;
  };
  std::array<Range, 256> ranges; // NR has 8 bits
  const auto wanted = std::span(ranges).first((command.cdw10 & 0xff) + 1);
  if (const Status status = read_prps(memory_, command, std::as_writable_bytes(wanted)); status != Status::success)
    return {{status}};
  const auto outside = [this](const Range& range) { return !in_namespace({range.first, range.blocks}); };
  if (std::any_of(wanted.begin(), wanted.end(), outside)) return {{Status::lba_out_of_range}};
  Ended ended;
  if ((command.cdw11 & 4) == 0) return ended; // only hints, which we do not need
  ended.deallocate = true;
  ended.settle = !features_.write_cache();
  for (const Range& range : wanted) {
    if (range.blocks != 0) ended.zero.push_back({start_of(command.nsid) + range.first, range.blocks});
  }
  return ended;
}

} // namespace smartio::sim::nvme
