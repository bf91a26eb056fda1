// What a device said of itself, asked once when its client comes: regions and interrupts. Answers the client's
// questions and refuses requests that lie outside, so that these never reach the device.
#pragma once

#include "../device.hpp"

#include <array>
#include <expected>
#include <functional>
#include <memory>

namespace smartio::vfio::user {

struct DeviceView {
  Info info{};
  std::array<RegionInfo, region_count> regions{}; ///< of size 0 where the device has none
  std::array<IrqInfo, irq_count> irqs{};

  using Loaded = std::move_only_function<void(std::expected<std::shared_ptr<const DeviceView>, int>)>;

  /// Asks `device` for everything; `loaded` is called once, possibly before this returns. Only a failing GetInfo is an
  /// error (its errno); a region or interrupt that the device will not tell about does not exist.
  /// Keeps the device until then.
  static void load(const std::shared_ptr<Device>& device, Loaded loaded);

  /// 0, or the errno that `request` deserves: EINVAL for an index or range that the device does not have, EACCES for
  /// reading what is write-only and the other way round.
  int check(const Request& request) const;
};

/// The same device with nothing to map.
std::shared_ptr<const DeviceView> without_registers(const DeviceView& view);

/// 0, or the errno that the descriptors in `request` deserve: EINVAL for an interrupt that is no eventfd, for memory
/// that is neither a regular file nor a kernel device's registers, or a file that ends before the window does; EACCES
/// for a descriptor without the rights that the window has. What the client shares is looked at, never changed: an
/// eventfd's flags are the client's.
int check_descriptors(const Request& request);

} // namespace smartio::vfio::user
