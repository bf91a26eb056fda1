// Ice Lake, whose translations are aligned to their window; Sapphire Rapids and Granite Rapids, where they are to
// pages.
#include "ntb/intel.hpp"
#include "page.hpp"
#include "result.hpp"

#include <bit>

namespace smartio::fabric::ntb {

namespace {

class Gen4 final : public Intel {
public:
  explicit Gen4(bool aligned_to_pages) : Intel(4, peer_scratchpads), by_revision_(!aligned_to_pages) {
    shape_.link_vector = link_event;
  }

  void identify(Steps& steps) override {
    identify_windows(steps, std::uint64_t{1} << link_event);
    steps.read_config(config_revision, 1, [this](std::uint64_t revision) -> Result<void> {
      shape_.alignment = !by_revision_ || revision > last_ice_lake ? page_size : 0;
      return {};
    });
    steps.read(ppd1, 4, [this](std::uint64_t ppd) { return place(ppd); });
  }

  void prepare(Steps& steps) const override {
    quiet(steps);
    close_windows(steps);
    map_vectors(steps, vector_map, shape_.link_vector);
  }

  void want_link(Steps& steps, bool up) const override {
    if (up)
      steps.write(control, 4, snooping); // without the bits that forbid it, whatever firmware left
    else
      steps.change(control, 4, snooping, 0);
    steps.change(link_control, 2, link_disable, up ? 0 : link_disable);
    if (up) steps.change(ppd0, 4, 0, start_training);
  }

  void read_link(Steps& steps, std::shared_ptr<Link> link) const override {
    acknowledge_link(steps);
    steps.read(link_status, 2, look_at(std::move(link)));
  }

private:
  static constexpr std::uint32_t config_revision = 0x08, last_ice_lake = 0xf;
  static constexpr std::uint32_t base_index = 0x74;                                                 // IM23XBASEIDX
  static constexpr std::uint32_t link_control = 0xb050, link_status = 0xb052, slot_status = 0xb05a; // LINK_CTRL, ...
  static constexpr std::uint32_t ppd0 = 0xb0d4, ppd1 = 0xb4c0;
  static constexpr std::uint16_t link_disable = 0x10, link_changed = 0x100; // LINK_CTRL, SLOTSTS DLLSCS
  static constexpr std::uint32_t start_training = 0x8;                      // PPD0
  static constexpr std::uint32_t vector_map = 0x50;                         // INTVEC
  static constexpr std::uint32_t peer_scratchpads = 0x8080;                 // EM_SPAD

  /// Only Ice Lake has an index: Linux leaves it alone on Sapphire Rapids.
  void prepare_window(Steps& steps, unsigned index, std::uint64_t bytes) const override {
    if (shape_.alignment == 0) steps.set(base_index + 2 * index, 2, std::bit_width(bytes) - 1U);
  }

  /// Only two bridges back to back are driven.
  Result<void> place(std::uint64_t ppd) {
    const bool ice_lake = shape_.alignment == 0;
    const std::uint64_t topology = ice_lake ? 0x300 : 0x700, back_to_back = 0x200,
                        downstream = ice_lake ? 0x1000 : 0x4000;
    if ((ppd & topology) != back_to_back)
      return fail(Errc::bad_request, "The bridge is not joined to another one back to back (PPD {:#x}).", ppd);
    shape_.upstream = (ppd & downstream) == 0;
    return {};
  }

  /// The event cannot be cleared before the slot's record of it.
  void acknowledge_link(Steps& steps) const override {
    steps.write(slot_status, 2, link_changed);
    steps.write(interrupt_status, 8, link_bits_);
  }

  bool by_revision_;
};

} // namespace

std::unique_ptr<Driver> make_intel_gen4(bool aligned_to_pages) { return std::make_unique<Gen4>(aligned_to_pages); }

} // namespace smartio::fabric::ntb
