// A function's interrupts: MSI-X vectors and perhaps INTx, each ending in the client's eventfd, with VFIO's meaning of
// SET_IRQS (linux/vfio.h). As in VFIO, a vector fires when it has an eventfd: the MSI-X table is storage only, because
// masking is the client's affair (QEMU never shows it to the server). The error interrupt of every PCI Express device
// can be assigned; a model has no errors of the link to report by it.
#pragma once

#include "device.hpp"

#include <array>
#include <expected>
#include <span>
#include <vector>

namespace smartio::sim {

class Interrupts {
public:
  Interrupts(unsigned vectors, bool intx) : msix_vectors_(vectors), intx_(intx ? 1 : 0) {}

  /// What SET_IRQS asks, wholly or not at all; or EINVAL (range, combination of flags, count, no eventfd).
  std::expected<void, int> set(vfio::SetIrqs request);
  std::expected<vfio::IrqInfo, int> info(std::uint32_t index) const;

  /// Fires an MSI-X vector; without an eventfd it stays pending and fires when it gets one. Nothing with MSI-X off.
  void trigger(unsigned vector);

  /// The level of the INTx line. A rise is signalled once and then held back until the client unmasks (AUTOMASKED).
  void set_line(bool asserted);
  bool line() const noexcept { return line_; }

  bool msix() const noexcept { return msix_; } ///< the client has enabled MSI-X
  void poll();                                 ///< looks after the client's own unmask eventfd
  void drop_pending();                         ///< a reset; what the client assigned stays
  std::vector<std::byte> pending_bits() const; ///< the pending bit array, in whole quadwords
  std::uint64_t signals() const noexcept { return signals_; }

private:
  struct Vector {
    Fd eventfd;
    bool blocking = false; ///< the client's end may fill it, and then a plain write would not return
    bool pending = false;
  };
  std::expected<void, int> assign(vfio::SetIrqs& request);
  std::expected<void, int> trigger_by_hand(const vfio::SetIrqs& request);
  std::expected<void, int> mask(vfio::SetIrqs& request);
  void disable(std::uint32_t index);
  void signal(Vector& vector);
  void update_line();
  std::span<Vector> of(std::uint32_t index);

  std::vector<Vector> msix_vectors_, intx_;
  std::array<Vector, 1> error_;
  Fd resample_;
  bool msix_ = false, line_ = false, intx_masked_ = false;
  std::uint64_t signals_ = 0;
};

} // namespace smartio::sim
