// The windows that devices of this node have onto registers of other devices of this node. They end with the loan of
// the device whose registers they are, whoever made them: its next borrower must be alone with it, and it cannot be
// closed before.
#pragma once

#include "device.hpp"

#include <expected>
#include <map>
#include <memory>
#include <optional>
#include <variant>

namespace smartio {

/// One for a node; single-threaded. Devices are told apart by their addresses, and forgotten before they end.
class RegisterWindows : public std::enable_shared_from_this<RegisterWindows> {
public:
  using Windows = WindowTable<std::monostate>; ///< as ClientDevice records them
  struct Window {
    std::shared_ptr<vfio::Device> device;
    const vfio::Device* target;
    vfio::DmaMap map;                ///< that made it, with a descriptor of its own
    std::shared_ptr<Windows> record; ///< of the client that made it
  };
  using Id = std::uint64_t; ///< never used again

  /// Clients of `target` may have this descriptor of a BAR from now on; the one before it is forgotten.
  void exported(const vfio::Device* target, std::uint32_t bar, const Fd& fd);

  /// To be called before `map` is submitted to `device`: notes the window if its descriptor is one that was exported.
  /// EOPNOTSUPP: it may be, and this kernel does not tell, so that the window could outlive the target's loan.
  std::expected<std::optional<Id>, int> mapping(const std::shared_ptr<vfio::Device>& device, const vfio::DmaMap& map,
                                                const std::shared_ptr<Windows>& record);
  void failed(Id window) { windows_.erase(window); } ///< it was not mapped
  void unmapped(const vfio::Device* device, const vfio::DmaUnmap& range);

  /// Makes every window onto the target's registers anew, since the kernel ended them (iommufd, at a reset of the
  /// target: drivers/vfio/pci/vfio_pci_dmabuf.c, vfio_pci_dma_buf_move). `done` is called once that was tried, possibly
  /// before this returns; a window that cannot be made again is gone.
  void remake(const vfio::Device* target, std::move_only_function<void()> done);

  /// Unmaps every window onto the target's registers, and closes its descriptors. `done` is called once that was tried,
  /// possibly before this returns; a device that does not unmap keeps the target open, which is noticed then.
  void withdraw(const vfio::Device* target, std::move_only_function<void()> done);

  void forget(const vfio::Device* device); ///< it has no window any more, or is about to be closed

private:
  class Finally;
  std::expected<const vfio::Device*, int> target_of(const Fd& fd) const;
  void remake(Id id, const std::shared_ptr<Finally>& finally);
  void remade(Id id, const std::shared_ptr<vfio::Device>& device, vfio::DmaUnmap range, bool there);

  std::map<const vfio::Device*, std::map<std::uint32_t, Fd>> exports_;
  std::map<Id, Window> windows_;
  Id next_ = 0;
};

} // namespace smartio
