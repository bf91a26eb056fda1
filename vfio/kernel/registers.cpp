#include "registers.hpp"

#include "../capabilities.hpp"
#include "mapping.hpp"
#include "page.hpp"
#include "result.hpp"

#include <linux/pci_regs.h>

namespace smartio::vfio::kernel {
namespace {

bool gone(int number) { return number == EIO || number == ENODEV || number == ENXIO; }

/// What of `areas` lies outside the pages of [offset, offset+size).
std::vector<RegionArea> without(const std::vector<RegionArea>& areas, std::uint64_t offset, std::uint64_t size) {
  const auto first = offset / page_size * page_size;
  const auto end = whole_pages(offset + size);
  std::vector<RegionArea> left;
  for (const auto& area : areas) {
    const auto area_end = area.offset + area.size;
    if (area.offset < first) left.push_back({area.offset, std::min(area_end, first) - area.offset});
    if (area_end > end) left.push_back({std::max(area.offset, end), area_end - std::max(area.offset, end)});
  }
  return left;
}

} // namespace

Result<Registers> Registers::open(std::shared_ptr<System> system, int device, std::uint32_t regions) {
  Registers registers(std::move(system), device);
  for (std::uint32_t index = 0; index < std::min(regions, region_count); ++index) // one it lacks is EINVAL
    registers.regions_.push_back(registers.system_->region(device, index).value_or(Region{}));
  if (registers.count() <= config_region) return fail_errno(EIO, "find the configuration space");
  TRY(registers.hide_msix());
  return registers;
}

/// Pages with the MSI-X table would let their holder aim interrupts; the pending bits are no use to anyone else.
Result<void> Registers::hide_msix() { // PCI Local Bus 3.0, 6.8.2
  const auto size = static_cast<std::uint32_t>(std::min<std::uint64_t>(regions_[config_region].size, page_size));
  const auto config = TRY(read(RegionRead{config_region, 0, size}));
  if (config.bytes.size() < 256 || config_number(config.bytes, 0, 2) == 0xffff)
    return fail_errno(EIO, "read the configuration space: the device does not answer");
  const auto found = find_capability(config.bytes, capability::msi_x);
  if (!found) return {};
  const std::uint64_t vectors = (config_number(config.bytes, found->offset + 2U, 2) & 0x7ffU) + 1;
  const auto table = config_number(config.bytes, found->offset + 4U, 4);
  const auto pending = config_number(config.bytes, found->offset + 8U, 4);
  hide(table & 7, table & ~7U, vectors * 16);
  hide(pending & 7, pending & ~7U, (vectors + 63) / 64 * 8);
  return {};
}

void Registers::hide(std::uint32_t index, std::uint64_t offset, std::uint64_t size) {
  if (index >= rom_region) return; // reserved values
  auto& region = regions_[index];
  region.areas = without(region.areas, offset, size);
  if (region.areas.empty()) region.flags &= ~region_flag_mmap;
}

Result<RegionInfo> Registers::info(std::uint32_t index, bool dma_buf) const {
  if (index >= count()) return fail_errno(EINVAL, fmt::format("region {}", index));
  const auto& region = regions_[index];
  RegionInfo info{.flags = region.flags, .size = region.size, .areas = region.areas, .fd = {}};
  if (region.areas.empty()) return info;
  auto buffer = dma_buf ? mappable_dma_buf(index) : std::nullopt;
  if (buffer) {
    info.fd = std::move(*buffer);
    return info;
  }
  info.fd_offset = region.offset;
  info.fd = TRY(duplicate(device_));
  return info;
}

/// The region as a dma-buf, if the kernel exports it and lets it be mapped: tried, since no kernel tells.
std::optional<Fd> Registers::mappable_dma_buf(std::uint32_t index) const {
  const auto& region = regions_[index];
  auto buffer = system_->export_dma_buf(device_, index, 0, region.size);
  if (!buffer) return std::nullopt;
  const auto mapped = system_->map(buffer->get(), region.areas.front().offset, page_size, true);
  if (!mapped) return std::nullopt;
  system_->unmap(*mapped, page_size);
  return std::move(*buffer);
}

Result<void> Registers::check(std::uint32_t index, std::uint64_t offset, std::uint64_t bytes,
                              std::uint32_t right) const {
  // A place behind the end of one region would be another region's in the device's descriptor.
  if (index >= count() || bytes > most_bytes || !in_range(offset, bytes, regions_[index].size))
    return fail_errno(EINVAL, fmt::format("access {} bytes at {:#x} of region {}", bytes, offset, index));
  if ((regions_[index].flags & right) == 0)
    return fail_errno(EACCES, fmt::format("access {} bytes at {:#x} of region {}", bytes, offset, index));
  return {};
}

// The kernel itself cuts an access into naturally aligned ones of at most 8 bytes, so that one call for 1, 2, 4 or 8
// aligned bytes is one access of the device (before Linux 6.10 at most 4 bytes).
Result<Data> Registers::read(const RegionRead& request) const {
  TRY(check(request.region, request.offset, request.count, region_flag_read));
  Data data{std::vector<std::byte>(request.count, std::byte{0xff})};
  for (std::size_t done = 0; done < data.bytes.size();) {
    const auto at = regions_[request.region].offset + request.offset + done;
    const auto count = system_->read(device_, at, std::span(data.bytes).subspan(done));
    if (!count && !gone(count.error()))
      return fail_errno(count.error(), fmt::format("read region {} at {:#x}", request.region, request.offset));
    if (count.value_or(0) == 0) break;
    done += *count;
  }
  return data;
}

Result<void> Registers::write(const RegionWrite& request) const {
  TRY(check(request.region, request.offset, request.data.size(), region_flag_write));
  for (std::size_t done = 0; done < request.data.size();) {
    const auto at = regions_[request.region].offset + request.offset + done;
    const auto count = system_->write(device_, at, std::span(request.data).subspan(done));
    if (!count && !gone(count.error()))
      return fail_errno(count.error(), fmt::format("write region {} at {:#x}", request.region, request.offset));
    if (count.value_or(0) == 0) break;
    done += *count;
  }
  return {};
}

Result<void> Registers::quiesce() const {
  const auto old = TRY(read(RegionRead{config_region, PCI_COMMAND, 2}));
  const auto wanted = (config_number(old.bytes, 0, 2) | PCI_COMMAND_MEMORY) & ~std::uint32_t{PCI_COMMAND_MASTER};
  const auto low = static_cast<std::byte>(wanted), high = static_cast<std::byte>(wanted >> 8);
  return write(RegionWrite{config_region, PCI_COMMAND, {low, high}});
}

} // namespace smartio::vfio::kernel
