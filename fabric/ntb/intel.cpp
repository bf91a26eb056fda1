#include "ntb/intel.hpp"

#include "page.hpp"
#include "result.hpp"

#include <bit>
#include <linux/pci_regs.h>

namespace smartio::fabric::ntb {

namespace {

constexpr std::uint32_t config_bar = 0x10;
constexpr std::uint16_t link_active = 0x2000; ///< LNKSTS; width in bits 4-9, speed in 0-3

constexpr std::uint32_t bar_of(unsigned window) { return 2 + 2 * window; }

} // namespace

void Intel::identify_windows(Steps& steps, std::uint64_t link_bits) {
  link_bits_ = link_bits;
  shape_.usable_doorbells = 0xffffffff & ~link_bits_;
  for (unsigned i = 0; i < window_count; ++i) {
    steps.ask(fmt::format("VFIO_DEVICE_GET_REGION_INFO {}", bar_of(i)), vfio::GetRegionInfo{bar_of(i)},
              [this, i](const vfio::Answer& answer) -> Result<void> {
                const auto* info = std::get_if<vfio::RegionInfo>(&answer);
                if (info == nullptr || info->size < page_size || !std::has_single_bit(info->size))
                  return fail(Errc::bad_request, "BAR {} of the bridge is no window.", bar_of(i));
                shape_.window_bytes[i] = info->size;
                return {};
              });
    steps.read_config(config_bar + 4 * bar_of(i), 8, [this, i](std::uint64_t address) -> Result<void> {
      bar_[i] = address & ~std::uint64_t{0xf};
      return {};
    });
  }
}

void Intel::quiet(Steps& steps) const {
  steps.change_config(PCI_COMMAND, 2, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  steps.write(interrupt_disable, 8, all_bits);
}

void Intel::close_windows(Steps& steps) const {
  for (unsigned i = 0; i < window_count; ++i) set_window(steps, i, 0, 0);
}

void Intel::map_vectors(Steps& steps, std::uint32_t map, unsigned link_vector) const {
  for (unsigned i = 0; i < vector_count; ++i) steps.write(map + i, 1, i == link_event ? link_vector : i);
}

void Intel::enable_signals(Steps& steps, std::uint64_t doorbells) const {
  steps.write(interrupt_disable, 8, all_bits & ~(link_bits_ | doorbells));
}

void Intel::clear_signals(Steps& steps) const {
  acknowledge_link(steps);
  steps.write(interrupt_status, 8, all_bits);
}

std::function<Result<void>(std::uint64_t)> Intel::look_at(std::shared_ptr<Link> link) {
  return [link = std::move(link)](std::uint64_t status) -> Result<void> {
    // Of a device that is not there any more everything is ones.
    link->up = (status & link_active) != 0 && status != 0xffff;
    if (link->up) *link = {true, static_cast<unsigned>(status & 0xf), static_cast<unsigned>(status >> 4 & 0x3f)};
    return {};
  };
}

void Intel::set_window(Steps& steps, unsigned index, std::uint64_t base, std::uint64_t bytes) const {
  const std::uint32_t step = index * window_step;
  steps.set(limit + step, 8, bar_[index]);
  steps.set(translation_base + step, 8, base);
  if (bytes == 0) return;
  prepare_window(steps, index, bytes);
  steps.set(limit + step, 8, bar_[index] + bytes);
}

void Intel::ring(Steps& steps, unsigned bit) const { steps.write(doorbells_at + 4 * bit, 4, 1); }

void Intel::read_doorbells(Steps& steps, std::shared_ptr<std::uint64_t> bits) const {
  steps.read(interrupt_status, 8, [bits, usable = shape_.usable_doorbells](std::uint64_t status) -> Result<void> {
    if (status == UINT64_MAX) return fail_errno(ENODEV, "read the bridge's doorbells");
    *bits = status & usable;
    return {};
  });
}

void Intel::clear_doorbells(Steps& steps, std::uint64_t bits) const {
  steps.write(interrupt_status, 8, bits & shape_.usable_doorbells);
}

void Intel::write_peer_scratchpad(Steps& steps, unsigned index, std::uint32_t value) const {
  steps.write(peer_scratchpads_ + 4 * index, 4, value);
}

void Intel::read_scratchpad(Steps& steps, unsigned index, std::shared_ptr<std::uint32_t> value) const {
  steps.read(scratchpads + 4 * index, 4, [value](std::uint64_t found) -> Result<void> {
    *value = static_cast<std::uint32_t>(found);
    return {};
  });
}

} // namespace smartio::fabric::ntb
