// The PCI function with the controller in it, as a vfio device: configuration space, BAR 0, interrupts, DMA windows and
// resets. One object per client; only store and flusher outlive it.
#pragma once

#include "controller.hpp"
#include "pci_config.hpp"

namespace smartio::sim::nvme {

class NvmeFunction final : public vfio::Device {
public:
  /// A fresh function with its own doorbell page. Fails only when memory cannot be had.
  static Result<std::shared_ptr<NvmeFunction>> create(std::shared_ptr<Store> store, std::shared_ptr<Flusher> flusher,
                                                      const Identity& identity, const Shape& shape = {},
                                                      std::shared_ptr<const Faults> faults = no_faults());
  static std::shared_ptr<const Faults> no_faults() { return std::make_shared<const Faults>(); }

  void submit(vfio::Request request, vfio::Completion done) override; ///< completes before it returns
  void on_lost(std::move_only_function<void()> lost) override;        ///< never called: the device is this process

  /// A bounded round of work; false when there was none.
  bool poll();
  /// Whether work may appear without a request: the client can ring doorbells in its mapping.
  bool needs_polling() const { return controller_.running() && config_.bus_master() && !faults_->gone; }

  bool settling() const noexcept { return controller_.settling(); } ///< commands wait for the medium
  ControllerCounters counters() const { return controller_.counters(); }
  std::size_t windows() const noexcept { return memory_.windows(); }

private:
  NvmeFunction(std::shared_ptr<Store> store, std::shared_ptr<Flusher> flusher, const Identity& identity,
               const Shape& shape, std::shared_ptr<const Faults> faults, Doorbells doorbells);
  vfio::Reply handle(vfio::GetInfo request);
  vfio::Reply handle(vfio::GetRegionInfo request);
  vfio::Reply handle(vfio::GetIrqInfo request);
  vfio::Reply handle(vfio::SetIrqs request);
  vfio::Reply handle(vfio::RegionRead request);
  vfio::Reply handle(vfio::RegionWrite request);
  vfio::Reply handle(vfio::DmaMap request);
  vfio::Reply handle(vfio::DmaUnmap request);
  vfio::Reply handle(vfio::Reset request);

  std::uint64_t region_size(std::uint32_t region) const;
  std::optional<std::size_t> msix_word(std::uint32_t offset) const;
  std::uint32_t read_bar(std::uint32_t offset) const;
  void write_bar(std::uint32_t offset, std::uint32_t value);
  void reset_registers();

  std::shared_ptr<Store> store_;
  std::shared_ptr<Flusher> flusher_;
  Identity identity_;
  Shape shape_;
  std::shared_ptr<const Faults> faults_;
  PciConfig config_{shape_};
  GuestMemory memory_;
  Interrupts interrupts_{shape_.vectors, true};
  Doorbells doorbells_;
  Controller controller_; // refers to those above
  std::vector<std::uint32_t> msix_table_ = std::vector<std::uint32_t>(std::size_t{4} * shape_.vectors);
};

} // namespace smartio::sim::nvme
