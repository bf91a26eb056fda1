// The interrupts of one open function: INTx, MSI and MSI-X (VFIO_DEVICE_SET_IRQS). ERR and REQ are the device's own.
// Blocks.
#pragma once

#include "system.hpp"

#include <smartio/error.hpp>

namespace smartio::vfio::kernel {

class Interrupts {
public:
  /// `device` is borrowed.
  Interrupts(std::shared_ptr<System> system, int device);

  IrqInfo info(std::uint32_t index) const { return info_[index]; } ///< below irq_count
  /// Errors: EINVAL (no such interrupt, or what was sent does not fit the count), ENOSPC (the host has fewer vectors
  /// to give), or the kernel's own.
  Result<void> set(const SetIrqs& request);
  Result<void> set_own(std::uint32_t index, int eventfd); ///< ERR or REQ
  Result<void> silence();                                 ///< disables what is enabled, except ERR and REQ

private:
  Result<void> enable_all(std::uint32_t index);
  Result<void> disable(std::uint32_t index);
  Result<void> apply(const SetIrqs& request);

  std::shared_ptr<System> system_;
  int device_;
  std::array<IrqInfo, irq_count> info_{};
  std::optional<std::uint32_t> enabled_; ///< the kernel allows one kind at a time
};

} // namespace smartio::vfio::kernel
