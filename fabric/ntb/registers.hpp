// Where the bridges that can be driven have their registers: Intel's generations 3 (Skylake, Cascade Lake) and 4 (Ice
// Lake, Sapphire Rapids, and as the latter Granite Rapids, its generation 5). Source of offsets and bits: Linux,
// drivers/ntb/hw/intel/ntb_hw_gen3.h, ntb_hw_gen4.h and ntb_hw_gen1.h (PPD), whose names stand beside them.
#pragma once

#include <cstdint>

namespace smartio::fabric::ntb {

inline constexpr unsigned window_count = 2, doorbell_count = 32, scratchpad_count = 16;
inline constexpr unsigned link_event = 32; ///< the bit and the vector behind those of the doorbells
inline constexpr unsigned vector_count = 33;

// In BAR 0, of both generations.
inline constexpr std::uint32_t control = 0x00;                                    // NTBCNTL
inline constexpr std::uint32_t translation_base = 0x10, limit = 0x18;             // IM23XBASE, IM23XLMT
inline constexpr std::uint32_t window_step = 0x10;                                // to IM45...
inline constexpr std::uint32_t interrupt_status = 0x40, interrupt_disable = 0x48; // INT_STATUS, INT_DISABLE
inline constexpr std::uint32_t scratchpads = 0x80, doorbells = 0x100;             // SPAD, DOORBELL
inline constexpr std::uint32_t snooping = 0x154;     ///< NTBCNTL: accesses in both directions and windows are coherent
inline constexpr std::uint16_t link_active = 0x2000; ///< LNKSTS; width in bits 4-9, speed in 0-3

// Of generation 4.
inline constexpr std::uint32_t base_index = 0x74;                                                 // IM23XBASEIDX
inline constexpr std::uint32_t link_control = 0xb050, link_status = 0xb052, slot_status = 0xb05a; // LINK_CTRL, ...
inline constexpr std::uint32_t ppd0 = 0xb0d4, ppd1 = 0xb4c0;
inline constexpr std::uint16_t link_disable = 0x10, link_changed = 0x100; // LINK_CTRL, SLOTSTS DLLSCS
inline constexpr std::uint32_t start_training = 0x8;                      // PPD0

// Of generation 3: in BAR 0 what the other end of the link sees of this function; in configuration space the rest.
inline constexpr std::uint32_t secondary_limit = 0x4018, secondary_command = 0x4504, secondary_bar = 0x4518;
inline constexpr std::uint32_t config_lock_and_disable = 0x3; // NTBCNTL
inline constexpr std::uint32_t config_ppd = 0xd4, config_link_status = 0x1a2;
inline constexpr std::uint8_t split_bar = 0x40; // PPD

} // namespace smartio::fabric::ntb
