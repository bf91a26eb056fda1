// A lent device as one client of a loan may use it: the lender's rules, and the record of what has to be undone.
#pragma once

#include "config_rules.hpp"
#include "describe.hpp"
#include "device.hpp"
#include "register_windows.hpp"
#include "vector_owners.hpp"

#include <array>
#include <memory>
#include <optional>

namespace smartio {

/// Passes requests to the device while the epoch is open; afterwards only answers. Single-threaded.
class ClientDevice final : public vfio::Device, public std::enable_shared_from_this<ClientDevice> {
public:
  /// `slice`: other clients use the device too, so it is neither reset nor loses bus mastering for this one's sake, and
  /// this one's windows must lie in that slice of the IOVAs (ERANGE); none: it is alone. GetInfo's flags tell it.
  /// `filters_config`: configuration writes pass ConfigRules. `vectors`: of all clients of the device.
  ClientDevice(std::shared_ptr<vfio::Device> device, const Description& description, std::optional<unsigned> slice,
               bool filters_config, std::shared_ptr<RegisterWindows> peers,
               std::shared_ptr<VectorOwners> vectors = std::make_shared<VectorOwners>());

  void submit(vfio::Request request, vfio::Completion done) override;
  void on_lost(std::move_only_function<void()>) override {} // the loan's end tells the client

  /// From here on no request reaches the device. Unmaps that come now are answered by windows_gone().
  void close_epoch() { open_ = false; }
  /// The device reaches none of the windows any more.
  void windows_gone();

  /// IOVA to size, in bytes: what the client has mapped, or is about to.
  const RegisterWindows::Windows& windows() const { return *windows_; }
  std::vector<vfio::SetIrqs> release_vectors() { return vectors_->release(this); } ///< as VectorOwners::release()
  bool used_interrupts(std::uint32_t index) const { return index < vfio::irq_count && used_[index]; }
  std::optional<unsigned> slice() const { return slice_; }
  bool shared() const { return slice_.has_value(); }

private:
  void unmap_own(const vfio::DmaUnmap& range, vfio::Completion done);
  void map(vfio::DmaMap window, vfio::Completion done);
  void set_own_irqs(vfio::SetIrqs irqs, vfio::Completion done);
  void write_config(vfio::RegionWrite write, vfio::Completion done);
  vfio::Completion with_virtual_bits(std::uint64_t offset, vfio::Completion done) const;
  vfio::Completion checked(const vfio::Request& request, vfio::Completion done);
  int refusal(const vfio::Request& request) const;
  void answer_closed(vfio::Request& request, vfio::Completion& done);

  std::shared_ptr<vfio::Device> device_;
  Description description_;
  std::shared_ptr<RegisterWindows> peers_;
  std::shared_ptr<VectorOwners> vectors_;
  std::optional<unsigned> slice_;
  bool open_ = true;
  std::optional<vfio::ConfigRules> rules_; ///< none: whatever is behind the device filters
  /// Memory and I/O space enable as the client set them; the device's stay on, since others may have its BARs mapped.
  std::byte space_enable_{};
  std::array<bool, vfio::irq_count> used_{};
  // Shared with the completions under way.
  std::shared_ptr<RegisterWindows::Windows> windows_ = std::make_shared<RegisterWindows::Windows>();
  std::vector<std::pair<std::uint64_t, vfio::Completion>> unmaps_;
};

} // namespace smartio
