// A borrowed device as a virtual machine must see it. A client like QEMU gives the device all of the guest's memory,
// and goes on when a part of it is refused (QEMU 11.1 prints a line): the guest would then trust data that the device
// never read or wrote. So the device either reaches the guest's memory, or it is gone and there is a reason.
#pragma once

#include "device.hpp"

#include <functional>
#include <memory>
#include <string>

namespace smartio {

/// Passes requests on to a device, but for windows without a descriptor: the device never reaches these. They are
/// read-only memory and registers of the guest's other devices, known here and counted. Single-threaded.
class VmDevice final : public vfio::Device, public std::enable_shared_from_this<VmDevice> {
public:
  /// `failed` is called once with the reason, a sentence without its full stop, when the device is gone for this
  /// client: when a window with a descriptor was refused, or when the guest lets the device master the bus although
  /// none of the memory it may write has a descriptor. ERR is signalled then; from there on reads give ones, writes do
  /// nothing, windows are refused (ENODEV), and the device masters the bus no more. `changed` is called when
  /// unreachable() changed.
  VmDevice(std::shared_ptr<vfio::Device> device, std::function<void(std::string)> failed, std::function<void()> changed)
      : device_(std::move(device)), reason_(std::move(failed)), changed_(std::move(changed)) {}

  void submit(vfio::Request request, vfio::Completion done) override;
  void on_lost(std::move_only_function<void()>) override {} // lost() tells the client
  void client_refused(const std::string& why) override { reason_(why); }

  /// The device is lost, and may still write the client's memory. QEMU 11.1 stops the machine for good when ERR is
  /// signalled (vfio_err_notifier_handler).
  void lost();
  /// The device is taken back in order, which REQ tells (QEMU 11.1 does not ask for it): for the guest it is pulled
  /// out, which its driver notices by reading ones.
  void taken_back();

  std::uint64_t unreachable() const { return unreachable_; } ///< windows that have no descriptor

private:
  /// An interrupt that this node signals, once: at once if it is too late already.
  class Signal {
  public:
    void set(vfio::SetIrqs& irqs, vfio::Completion& done);
    void fire();

  private:
    Fd event_;
    bool fired_ = false;
  };
  void map(vfio::DmaMap request, vfio::Completion done);
  void unmap(const vfio::DmaUnmap& request, vfio::Completion done);
  bool lacks_memory() const;
  vfio::Completion noting_reserved(vfio::Completion done);
  void refused(std::uint64_t iova, std::uint64_t size, int number);
  void fail(std::string reason);
  void answer_failed(vfio::Request& request, vfio::Completion& done);

  std::shared_ptr<vfio::Device> device_;
  std::function<void(std::string)> reason_;
  std::function<void()> changed_;
  WindowTable<bool> windows_;     ///< whether it has a descriptor
  std::vector<IovaRange> usable_; ///< by the lender's IOMMU; empty: not known
  std::uint64_t unreachable_ = 0;
  bool has_memory_ =
      false; ///< a writable window with a descriptor has been there: behind a virtual IOMMU none may be now
  bool wants_to_write_ = false; ///< a writable window without one has been there
  bool failed_ = false;
  Signal error_, wanted_;
};

} // namespace smartio
