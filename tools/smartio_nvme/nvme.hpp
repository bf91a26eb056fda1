// What NVM Express 1.4 (base specification) lays down: registers, queue entries, codes. Only what this driver uses.
#pragma once

#include "page.hpp"

#include <cstdint>
#include <string>

namespace nvme {

// Controller registers (3.1), offsets in BAR 0.
inline constexpr std::size_t reg_cap = 0x00, reg_vs = 0x08, reg_cc = 0x14, reg_csts = 0x1c, reg_aqa = 0x24,
                             reg_asq = 0x28, reg_acq = 0x30, doorbell_base = 0x1000;

// CAP, controller capabilities (3.1.1).
constexpr unsigned cap_mqes(std::uint64_t cap) { return cap & 0xffff; }     // maximum queue entries, less one
constexpr unsigned cap_to(std::uint64_t cap) { return cap >> 24 & 0xff; }   // for CSTS.RDY to change, in 500 ms
constexpr unsigned cap_dstrd(std::uint64_t cap) { return cap >> 32 & 0xf; } // doorbells are 4 << DSTRD bytes apart
constexpr bool cap_css_nvm(std::uint64_t cap) { return (cap >> 37 & 1) != 0; }
constexpr unsigned cap_mpsmin(std::uint64_t cap) { return cap >> 48 & 0xf; } // smallest page, 4096 << MPSMIN

using smartio::page_size, smartio::whole_pages; // the smallest page the specification has, which this driver sets

// CC, controller configuration (3.1.5): NVM command set, such pages, entries of 64 and 16 bytes.
inline constexpr std::uint32_t cc_enable = 1, cc_entry_sizes = 6U << 16 | 4U << 20;
// CSTS, controller status (3.1.6).
inline constexpr std::uint32_t csts_ready = 1, csts_fatal = 2;

/// Submission queue entry (4.2).
struct Command {
  std::uint8_t opcode = 0, flags = 0;
  std::uint16_t id = 0;
  std::uint32_t namespace_id = 0;
  std::uint64_t reserved = 0, metadata = 0;
  std::uint64_t prp1 = 0, prp2 = 0;
  std::uint32_t cdw10 = 0, cdw11 = 0, cdw12 = 0, cdw13 = 0, cdw14 = 0, cdw15 = 0;
};
static_assert(sizeof(Command) == 64);

/// Completion queue entry (4.6).
struct Completion {
  std::uint32_t result, reserved;
  std::uint16_t sq_head, sq_id, id, status; ///< bit 0 of status: phase tag
};
static_assert(sizeof(Completion) == 16);

// Admin commands (5) and NVM commands (6).
inline constexpr std::uint8_t admin_delete_sq = 0x00, admin_create_sq = 0x01, admin_delete_cq = 0x04,
                              admin_create_cq = 0x05, admin_identify = 0x06, admin_set_features = 0x09;
inline constexpr std::uint8_t io_flush = 0x00, io_write = 0x01, io_read = 0x02;
inline constexpr std::uint32_t identify_namespace = 0, identify_controller = 1; // CNS (5.15.1)
inline constexpr std::uint32_t feature_queues = 0x07;                           // (5.21.1.7)

constexpr bool succeeded(std::uint16_t status) { return (status >> 1 & 0x7ff) == 0; } // SCT and SC (4.6.1)

/// "status 0/0x80 (LBA out of range)": status code type, code and what the specification calls it.
std::string status_text(std::uint16_t status);

} // namespace nvme
