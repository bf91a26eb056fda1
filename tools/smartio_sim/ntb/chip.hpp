// The bridges that can be modelled, and where each has its registers. Offsets are those of Linux's
// drivers/ntb/hw/intel (ntb_hw_gen3.h, ntb_hw_gen4.h), which names them as Intel does; behaviour that no public
// document describes is marked "not verified" where it is chosen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace smartio::sim::ntb {

enum class Side : std::uint8_t { a, b }; ///< a is upstream (USD), b downstream (DSD)
constexpr Side other(Side side) { return side == Side::a ? Side::b : Side::a; }

inline constexpr unsigned window_count = 2; ///< BAR 2 and BAR 4
inline constexpr unsigned doorbell_count = 32, scratchpad_count = 16;
inline constexpr unsigned link_bit = 32; ///< of the interrupt status
inline constexpr unsigned vectors = 33;
inline constexpr std::uint64_t register_bytes = 0x10000; ///< BAR 0

/// Registers in BAR 0 that all have at the same place.
namespace register_offset {
inline constexpr std::uint32_t control = 0x00; ///< coherent accesses: bits 2 (from the link) and 4 (to it), of window 0
inline constexpr std::uint32_t translation_base = 0x10, limit = 0x18, window_step = 0x10;
inline constexpr std::uint32_t interrupt_status = 0x40, interrupt_disable = 0x48;
inline constexpr std::uint32_t scratchpads = 0x80, doorbells = 0x100;
// Of generation 4 only.
inline constexpr std::uint32_t base_index = 0x74; ///< of window 0; 16 bits each: log2 of the window's open bytes
inline constexpr std::uint32_t link_control = 0xb050, link_status = 0xb052, slot_status = 0xb05a;
inline constexpr std::uint32_t ppd0 = 0xb0d4, ppd1 = 0xb4c0;
// Of generation 3 only: what the other end of the link sees of this function.
inline constexpr std::uint32_t memory_misses = 0x70;
inline constexpr std::uint32_t secondary_base = 0x4008, secondary_translation = 0x4010, secondary_limit = 0x4018;
inline constexpr std::uint32_t secondary_command = 0x4504, secondary_bar0 = 0x4510, secondary_bar = 0x4518;
} // namespace register_offset

// Ours, in a page without other registers.
inline constexpr std::uint32_t msix_table_offset = 0x2000, msix_pba_offset = 0x2800;

struct Chip {
  const char* name;
  unsigned generation;  ///< of the registers: 4 also for what is called generation 5
  std::uint16_t device; ///< PCI device id; the vendor is Intel
  std::uint8_t revision;
  bool
      bar_aligned; ///< a translation base is a multiple of the BAR's size and has an index; otherwise of 4 KiB, without
  std::uint32_t vector_map;                   ///< 33 bytes: the MSI-X vector of each interrupt status bit
  std::uint32_t peer_scratchpads;             ///< the other side's, seen from here
  std::uint32_t position_of_a, position_of_b; ///< PPD1, or PPD in configuration space
  std::uint16_t link_up;                      ///< the link status register: data link active, width, speed
};

inline constexpr std::size_t chip_count = 4;
extern const Chip chips[chip_count];
const Chip* find_chip(std::string_view name); ///< or null

} // namespace smartio::sim::ntb
