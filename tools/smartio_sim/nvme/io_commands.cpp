#include "io_commands.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

namespace {

constexpr std::uint32_t force_unit_access = 1U << 30, deallocate_bit = 1U << 25; // of command dword 12

/// EFAULT is the client's memory, anything else the store's.
Status status_of(int number, Status store_failed) {
  if (number == 0) return Status::success;
  return number == EFAULT ? Status::data_transfer_error : store_failed;
}

} // namespace

bool IoCommands::in_namespace(Blocks blocks) const { return in_range(blocks.first, blocks.count, store_.blocks()); }

IoCommands::Ended IoCommands::execute(const SubmissionEntry& command) {
  const bool is_flush = command.opcode == io_opcode::flush;
  if ((command.flags & fuse_and_psdt) != 0) return {Status::invalid_field};
  const Blocks blocks{static_cast<std::uint64_t>(command.cdw11) << 32 | command.cdw10, (command.cdw12 & 0xffff) + 1};
  Status (IoCommands::*transfer)(const SubmissionEntry&, Blocks) = nullptr;
  switch (command.opcode) {
  case io_opcode::read: transfer = &IoCommands::read; break;
  case io_opcode::write: transfer = &IoCommands::write; break;
  case io_opcode::compare: transfer = &IoCommands::compare; break;
  case io_opcode::write_zeroes: transfer = &IoCommands::write_zeroes; break;
  case io_opcode::flush:
  case io_opcode::dataset_management: break;
  default: return {Status::invalid_opcode};
  }
  if (command.nsid != namespace_id && !(is_flush && command.nsid == all_namespaces)) return {Status::invalid_namespace};
  if (is_flush) return {Status::success, true};
  if (transfer == nullptr) return {dataset_management(command)};
  if (!in_namespace(blocks)) return {Status::lba_out_of_range};
  const Status status = (this->*transfer)(command, blocks);
  return {status, status == Status::success && settles(command)};
}

/// With Force Unit Access, or without a write cache, data is on the medium before the command completes.
bool IoCommands::settles(const SubmissionEntry& command) const {
  const bool writes = command.opcode == io_opcode::write || command.opcode == io_opcode::write_zeroes;
  return writes && ((command.cdw12 & force_unit_access) != 0 || !features_.write_cache());
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
  const auto until = (command.cdw12 & force_unit_access) != 0 ? Store::Until::stable : Store::Until::cached;
  return status_of(store_.write(blocks.first, pieces_, until), Status::write_fault);
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

Status IoCommands::write_zeroes(const SubmissionEntry& command, Blocks blocks) {
  const bool deallocate = (command.cdw12 & deallocate_bit) != 0;
  return status_of(store_.zero(blocks.first, blocks.count, deallocate), Status::write_fault);
}

Status IoCommands::dataset_management(const SubmissionEntry& command) {
  struct Range {
    std::uint32_t attributes, blocks;
    std::uint64_t first;
  };
  std::array<Range, 256> ranges; // NR has 8 bits
  const auto wanted = std::span(ranges).first((command.cdw10 & 0xff) + 1);
  if (const Status status = read_prps(memory_, command, std::as_writable_bytes(wanted)); status != Status::success)
    return status;
  const auto outside = [this](const Range& range) { return !in_namespace({range.first, range.blocks}); };
  if (std::any_of(wanted.begin(), wanted.end(), outside)) return Status::lba_out_of_range;
  if ((command.cdw11 & 4) == 0) return Status::success; // only hints, which we do not need
  for (const Range& range : wanted) {
    const Status status = status_of(store_.zero(range.first, range.blocks, true), Status::write_fault);
    if (status != Status::success) return status;
  }
  return Status::success;
}

} // namespace smartio::sim::nvme
