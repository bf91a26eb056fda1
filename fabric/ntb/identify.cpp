// What an adapter finds out about its device before it drives it.
#include "ntb/adapter.hpp"
#include "page.hpp"
#include "result.hpp"

#include <bit>

namespace smartio::fabric::ntb {

namespace {

constexpr std::uint32_t config_revision = 0x08, config_bar = 0x10;

constexpr std::uint32_t bar_of(unsigned window) { return 2 + 2 * window; }

} // namespace

void Adapter::open(std::shared_ptr<vfio::Device> device, Told<std::shared_ptr<Adapter>> opened) {
  std::shared_ptr<Adapter> adapter(new Adapter(device));
  auto steps = Steps::on(std::move(device));
  steps->read_config(0, 4, [adapter, &steps = *steps](std::uint64_t id) { return adapter->identify(id, steps); });
  steps->run([adapter, opened = std::move(opened)](Result<void> done) mutable {
    if (!done) return opened(std::unexpected(std::move(done).error()));
    opened(std::move(adapter));
  });
}

Result<void> Adapter::identify(std::uint64_t id, Steps& steps) {
  constexpr std::uint64_t skylake = 0x201c8086, ice_lake = 0x347e8086, granite_rapids = 0x0db48086;
  if (id != skylake && id != ice_lake && id != granite_rapids)
    return fail(Errc::bad_request, "The device {:04x}:{:04x} is no bridge that can be driven.", id & 0xffff, id >> 16);
  shape_.generation = id == skylake ? 3 : 4; // Linux drives Granite Rapids as it does Sapphire Rapids
  const auto place_it = [this](std::uint64_t ppd) { return place(ppd); };
  for (unsigned i = 0; i < window_count; ++i) look_at_bar(i, steps);
  if (shape_.generation == 3) {
    shape_.alignment = 0; // the BAR's size
    link_bits_ = std::uint64_t{3} << (link_event - 1);
    for (unsigned i = 0; i < window_count; ++i) look_at_peer_side(i, steps);
    steps.read_config(config_ppd, 1, place_it);
  } else {
    link_bits_ = std::uint64_t{1} << link_event;
    // Revisions up to f are Ice Lake, whose translations are aligned like those of generation 3.
    steps.read_config(config_revision, 1, [this, by_revision = id == ice_lake](std::uint64_t revision) -> Result<void> {
      shape_.alignment = !by_revision || revision > 0xf ? page_size : 0;
      return {};
    });
    steps.read(ppd1, 4, place_it);
  }
  shape_.usable_doorbells = 0xffffffff & ~link_bits_;
  return {};
}

/// Only two bridges back to back are driven, with two windows each.
Result<void> Adapter::place(std::uint64_t ppd) {
  const bool sapphire_rapids = shape_.generation == 4 && shape_.alignment == page_size;
  if (shape_.generation == 3 ? (ppd & 0x3) != 1 : (ppd & (sapphire_rapids ? 0x700 : 0x300)) != 0x200)
    return fail(Errc::bad_request, "The bridge is not joined to another one back to back (PPD {:#x}).", ppd);
  if (shape_.generation == 3 && (ppd & split_bar) != 0)
    return fail(Errc::bad_request, "The bridge's BAR 4 is split in two (PPD {:#x}).", ppd);
  shape_.upstream = (ppd & (shape_.generation == 3 ? 0x10U : sapphire_rapids ? 0x4000U : 0x1000U)) == 0;
  return {};
}

void Adapter::look_at_bar(unsigned index, Steps& steps) {
  steps.ask(fmt::format("VFIO_DEVICE_GET_REGION_INFO {}", bar_of(index)), vfio::GetRegionInfo{bar_of(index)},
            [this, index](const vfio::Answer& answer) -> Result<void> {
              const auto* info = std::get_if<vfio::RegionInfo>(&answer);
              if (info == nullptr || info->size < page_size || !std::has_single_bit(info->size))
                return fail(Errc::bad_request, "BAR {} of the bridge is no window.", bar_of(index));
              shape_.window_bytes[index] = info->size;
              return {};
            });
  steps.read_config(config_bar + 4 * bar_of(index), 8, [this, index](std::uint64_t address) -> Result<void> {
    bar_[index] = address & ~std::uint64_t{0xf};
    return {};
  });
}

void Adapter::look_at_peer_side(unsigned index, Steps& steps) {
  steps.read(secondary_bar + 8 * index, 8, [this, index](std::uint64_t address) -> Result<void> {
    secondary_bar_[index] = address & ~std::uint64_t{0xf};
    return {};
  });
}

} // namespace smartio::fabric::ntb
