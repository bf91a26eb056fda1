// A register block of an open device, mapped where its server lets this process map it.
#pragma once

#include "bus_errors.hpp"
#include "device_core.hpp"
#include "mapping.hpp"

#include <optional>
#include <vector>

namespace smartio::detail {

/// Made and destroyed on a caller's thread; known to the core while it has mappings.
struct Bar {
  Bar(std::shared_ptr<DeviceCore> device, unsigned bar);
  Bar(const Bar&) = delete;
  ~Bar();

  /// Asks the server for the areas and maps them.
  Result<void> map();

  /// The device's thread: loads from mapped areas give ones from now on, stores reach no device.
  void become_ones() noexcept;

  Result<std::uint64_t> read(std::size_t offset, unsigned width);
  Result<void> write(std::size_t offset, unsigned width, std::uint64_t value);
  Result<void> post(std::size_t offset, unsigned width, std::uint64_t value);
  volatile std::byte* mapped(std::size_t offset, std::size_t bytes) const noexcept;

  std::shared_ptr<DeviceCore> core;
  unsigned index;
  std::size_t size;
  std::vector<Mapping> mappings;   // one for each area
  std::vector<GuardedArea> guards; // of the mappings, which go after them
  std::vector<BarMapping::Area> areas;

private:
  /// Done where mapped; otherwise the message that does it.
  Result<std::optional<vfio::RegionWrite>> store_or_message(std::size_t offset, unsigned width, std::uint64_t value);
  Result<void> map_areas(const vfio::RegionInfo& region);
  Result<void> check_access(std::size_t offset, unsigned width) const;
};

/// Whether the server lets this process map anything of the register block.
inline bool is_mappable(const vfio::RegionInfo& region) {
  return (region.flags & vfio::region_flag_mmap) != 0 && region.fd && !region.areas.empty();
}
/// Errc::bad_request when what the server said is mappable cannot be mapped without surprises.
Result<void> check_areas(const vfio::RegionInfo& region, unsigned bar, std::size_t size);

} // namespace smartio::detail
