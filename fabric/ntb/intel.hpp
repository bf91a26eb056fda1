// Intel's bridges: generations 3 (Skylake, Cascade Lake) and 4 (Ice Lake, Sapphire Rapids, and as the latter Granite
// Rapids, its generation 5). Source of offsets and bits: Linux, drivers/ntb/hw/intel/ntb_hw_gen3.h, ntb_hw_gen4.h and
// ntb_hw_gen1.h (PPD), whose names stand beside them.
#pragma once

#include "ntb/driver.hpp"

namespace smartio::fabric::ntb {

/// What both generations have in common, and at the same place of BAR 0.
class Intel : public Driver {
public:
  void enable_signals(Steps& steps, std::uint64_t doorbells) const final;
  void clear_signals(Steps& steps) const final;
  void ring(Steps& steps, unsigned bit) const final;
  void read_doorbells(Steps& steps, std::shared_ptr<std::uint64_t> bits) const final;
  void clear_doorbells(Steps& steps, std::uint64_t bits) const final;
  void write_peer_scratchpad(Steps& steps, unsigned index, std::uint32_t value) const final;
  void read_scratchpad(Steps& steps, unsigned index, std::shared_ptr<std::uint32_t> value) const final;
  void set_window(Steps& steps, unsigned index, std::uint64_t base, std::uint64_t bytes) const final;

protected:
  static constexpr std::uint32_t control = 0x00;                                    // NTBCNTL
  static constexpr std::uint32_t translation_base = 0x10, limit = 0x18;             // IM23XBASE, IM23XLMT
  static constexpr std::uint32_t window_step = 0x10;                                // to IM45...
  static constexpr std::uint32_t interrupt_status = 0x40, interrupt_disable = 0x48; // INT_STATUS, INT_DISABLE
  static constexpr std::uint32_t scratchpads = 0x80, doorbells_at = 0x100;          // SPAD, DOORBELL
  static constexpr std::uint32_t snooping = 0x154; ///< NTBCNTL: accesses in both directions and windows are coherent
  static constexpr unsigned link_event = 32;       ///< the bit and the vector behind those of the doorbells
  static constexpr std::uint64_t all_bits = 0x1ffffffff;

  Intel(unsigned generation, std::uint32_t peer_scratchpads) : peer_scratchpads_(peer_scratchpads) {
    shape_.generation = generation;
  }
  /// The windows' sizes and addresses, and which interrupt status bits are the link's.
  void identify_windows(Steps& steps, std::uint64_t link_bits);
  void quiet(Steps& steps) const; ///< registers answer, nothing signals
  void close_windows(Steps& steps) const;
  /// Vector i for doorbell i, and `link_vector` for the link; from `map` on in BAR 0.
  void map_vectors(Steps& steps, std::uint32_t map, unsigned link_vector) const;
  static std::function<Result<void>(std::uint64_t)> look_at(std::shared_ptr<Link> link); ///< at LNKSTS
  /// What a window of that size needs besides its translation, before its limit opens it.
  virtual void prepare_window(Steps& steps, unsigned index, std::uint64_t bytes) const = 0;
  virtual void acknowledge_link(Steps& steps) const = 0;

  std::uint64_t link_bits_ = 0; ///< interrupt status bits that a change of the link sets or may share

private:
  std::uint32_t peer_scratchpads_;                ///< where they are in BAR 0
  std::array<std::uint64_t, window_count> bar_{}; ///< addresses that limits count from
};

std::unique_ptr<Driver> make_intel_gen3();
/// `aligned_to_pages`: Sapphire Rapids' registers; otherwise the revision says which.
std::unique_ptr<Driver> make_intel_gen4(bool aligned_to_pages);

} // namespace smartio::fabric::ntb
