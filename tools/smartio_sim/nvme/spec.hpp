// Words of the NVM Express Base Specification 1.4 as far as this model speaks them: entries, opcodes, status codes,
// register offsets, and the limits the model claims. No behaviour.
#pragma once

#include "page.hpp"

#include <bit>
#include <cstdint>

namespace smartio::sim::nvme {

static_assert(std::endian::native == std::endian::little, "entries are read and written as the host's own structures");

inline constexpr std::uint32_t io_queues = 64; ///< I/O queue pairs
inline constexpr std::uint32_t mdts = 8;       ///< in powers of two of page_size: 1 MiB
inline constexpr std::uint32_t max_transfer = page_size << mdts;
inline constexpr std::uint32_t abort_limit = 3;             ///< ACL, 0's based
inline constexpr std::uint32_t event_limit = 3;             ///< AERL, 0's based
inline constexpr std::uint32_t error_log_entries = 64;      ///< ELPE + 1
inline constexpr std::uint32_t namespace_id = 1;            ///< the first, or only one
inline constexpr std::uint32_t max_namespaces = 1024;       ///< what one list of them holds
inline constexpr std::uint32_t all_namespaces = 0xffffffff; ///< broadcast value
inline constexpr std::uint16_t composite_temperature = 313; ///< kelvin; a model does not get warm
inline constexpr std::uint16_t warning_temperature = 343, critical_temperature = 353;
inline constexpr char firmware_revision[] = "0.1.0";

/// Submission queue entry (1.4, 4.2).
struct SubmissionEntry {
  std::uint8_t opcode;
  std::uint8_t flags; ///< bits 1:0 FUSE, 7:6 PSDT
  std::uint16_t command_id;
  std::uint32_t nsid, cdw2, cdw3;
  std::uint64_t metadata, prp1, prp2;
  std::uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
static_assert(sizeof(SubmissionEntry) == 64);

inline constexpr std::uint8_t fuse_and_psdt = 0xc3; ///< of the flags: neither fused commands nor SGLs are claimed

/// Completion queue entry (1.4, 4.6).
struct CompletionEntry {
  std::uint32_t result, reserved;
  std::uint16_t sq_head, sq_id, command_id;
  std::uint16_t status; ///< bit 0 is the phase
};
static_assert(sizeof(CompletionEntry) == 16);

/// Status code type << 8 | status code (1.4, 4.6.1).
enum class Status : std::uint16_t {
  success = 0x000,
  invalid_opcode = 0x001,
  invalid_field = 0x002,
  data_transfer_error = 0x004,
  internal_error = 0x006,
  abort_requested = 0x007,
  aborted_by_deletion = 0x008,
  invalid_namespace = 0x00b,
  command_sequence_error = 0x00c,
  invalid_prp_offset = 0x013,
  lba_out_of_range = 0x080,
  capacity_exceeded = 0x081,
  completion_queue_invalid = 0x100,
  invalid_queue_id = 0x101,
  invalid_queue_size = 0x102,
  event_limit_exceeded = 0x105,
  invalid_vector = 0x108,
  invalid_log_page = 0x109,
  invalid_queue_deletion = 0x10c,
  feature_not_saveable = 0x10d,
  feature_not_changeable = 0x10e,
  feature_not_namespace_specific = 0x10f,
  write_fault = 0x280,
  unrecovered_read = 0x281,
  compare_failure = 0x285,
};

/// The status field of a completion entry, without the phase. Do Not Retry (bit 15) is set where the same command must
/// fail again.
constexpr std::uint16_t status_field(Status status) {
  const auto code = static_cast<std::uint16_t>(static_cast<std::uint16_t>(status) << 1);
  const bool retry = status == Status::success || status == Status::data_transfer_error ||
                     status == Status::internal_error || status == Status::abort_requested ||
                     status == Status::aborted_by_deletion || status == Status::write_fault ||
                     status == Status::unrecovered_read || status == Status::capacity_exceeded;
  return retry ? code : static_cast<std::uint16_t>(code | 0x8000);
}

/// Logical blocks.
struct Blocks {
  std::uint64_t first, count;
};

/// How a command ended; `result` is dword 0 of the completion entry.
struct Outcome {
  Status status = Status::success;
  std::uint32_t result = 0;
};

namespace admin_opcode { // 1.4, 5
inline constexpr std::uint8_t delete_sq = 0x00, create_sq = 0x01, get_log_page = 0x02, delete_cq = 0x04,
                              create_cq = 0x05, identify = 0x06, abort = 0x08, set_features = 0x09, get_features = 0x0a,
                              async_event = 0x0c;
}
namespace io_opcode { // 1.4, 6
inline constexpr std::uint8_t flush = 0x00, write = 0x01, read = 0x02, compare = 0x05, write_zeroes = 0x08,
                              dataset_management = 0x09;
}
namespace register_offset { // 1.4, 3.1
inline constexpr std::uint32_t cap = 0x00, vs = 0x08, intms = 0x0c, intmc = 0x10, cc = 0x14, csts = 0x1c, nssr = 0x20,
                               aqa = 0x24, asq = 0x28, acq = 0x30, end = 0x38, doorbells = 0x1000;
}

} // namespace smartio::sim::nvme
