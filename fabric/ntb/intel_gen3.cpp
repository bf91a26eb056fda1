// Skylake and Cascade Lake. Translations are aligned to their window, and the peer's side has limits of its own.
#include "ntb/intel.hpp"
#include "result.hpp"

#include <linux/pci_regs.h>

namespace smartio::fabric::ntb {

namespace {

class Gen3 final : public Intel {
public:
  Gen3() : Intel(3, peer_scratchpads) { shape_.link_vector = link_event - 1; }

  /// A doorbell shares the link's vector.
  void identify(Steps& steps) override {
    identify_windows(steps, std::uint64_t{3} << (link_event - 1));
    for (unsigned i = 0; i < window_count; ++i)
      steps.read(secondary_bar + 8 * i, 8, [this, i](std::uint64_t address) -> Result<void> {
        secondary_bar_[i] = address & ~std::uint64_t{0xf};
        return {};
      });
    steps.read_config(config_ppd, 1, [this](std::uint64_t ppd) { return place(ppd); });
  }

  /// Vector 32 does not work (Linux: NTB_HWERR_MSIX_VECTOR32_BAD).
  void prepare(Steps& steps) const override {
    quiet(steps);
    steps.write(secondary_command, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    close_windows(steps);
    map_vectors(steps, vector_map, shape_.link_vector);
  }

  void want_link(Steps& steps, bool up) const override {
    steps.change(control, 4, up ? lock_and_disable : snooping, up ? snooping : lock_and_disable);
  }

  void read_link(Steps& steps, std::shared_ptr<Link> link) const override {
    acknowledge_link(steps);
    steps.read_config(config_link_status, 2, look_at(std::move(link)));
  }

private:
  // In BAR 0 what the other end of the link sees of this function; in configuration space the rest.
  static constexpr std::uint32_t secondary_limit = 0x4018, secondary_command = 0x4504, secondary_bar = 0x4518;
  static constexpr std::uint32_t lock_and_disable = 0x3;   // NTBCNTL
  static constexpr std::uint32_t vector_map = 0xd0;        // INTVEC
  static constexpr std::uint32_t peer_scratchpads = 0x180; // B2B_SPAD
  static constexpr std::uint32_t config_ppd = 0xd4, config_link_status = 0x1a2;
  static constexpr std::uint8_t topology = 0x3, back_to_back = 0x1, split_bar = 0x40, downstream = 0x10; // PPD

  void prepare_window(Steps& steps, unsigned index, std::uint64_t bytes) const override {
    steps.set(secondary_limit + index * window_step, 8, secondary_bar_[index] + bytes);
  }

  /// Only two bridges back to back are driven, with two windows each.
  Result<void> place(std::uint64_t ppd) {
    if ((ppd & topology) != back_to_back)
      return fail(Errc::bad_request, "The bridge is not joined to another one back to back (PPD {:#x}).", ppd);
    if ((ppd & split_bar) != 0) return fail(Errc::bad_request, "The bridge's BAR 4 is split in two (PPD {:#x}).", ppd);
    shape_.upstream = (ppd & downstream) == 0;
    return {};
  }

  /// The doorbell that shares its vector goes with it.
  void acknowledge_link(Steps& steps) const override { steps.write(interrupt_status, 8, link_bits_); }

  std::array<std::uint64_t, window_count> secondary_bar_{};
};

} // namespace

std::unique_ptr<Driver> make_intel_gen3() { return std::make_unique<Gen3>(); }

} // namespace smartio::fabric::ntb
