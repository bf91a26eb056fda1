// One end of the bridge, as a vfio device: configuration space, registers, interrupts, DMA windows and resets. BAR 2
// and BAR 4 lead to the other host. One object for each client; only the bridge outlives it.
#pragma once

#include "bridge.hpp"
#include "pci/interrupts.hpp"
#include "pci_config.hpp"
#include "registers.hpp"

#include <map>

namespace smartio::sim::ntb {

class NtbFunction final : public vfio::Device, public std::enable_shared_from_this<NtbFunction> {
public:
  NtbFunction(Bridge& bridge, Side side, Messages messages);

  void submit(vfio::Request request, vfio::Completion done) override;
  void on_lost(std::move_only_function<void()> lost) override; ///< never called: the device is this process

  // For the bridge.
  const PciConfig& config() const noexcept { return config_; }
  Registers& registers() noexcept { return registers_; }
  HostMemory& memory() noexcept { return *memory_; }
  void leave(); ///< the bridge forgets this end
  void show_link(bool up);
  void ring(unsigned doorbell);
  /// Keeps a read until settle() or abandon_reads().
  std::uint64_t owe(std::uint32_t bytes, vfio::Completion done);
  void settle(std::uint64_t number, std::expected<std::vector<std::byte>, int> result);
  unsigned abandon_reads(); ///< answers what is owed with ones, and says how many those were
  bool holds_writes() const noexcept { return !held_.empty(); }
  void release_writes(); ///< completes the writes that were kept because the other host was behind
  std::uint64_t interrupts_signalled() const noexcept { return interrupts_.signals(); }

private:
  struct Owed {
    std::uint32_t bytes;
    vfio::Completion done;
  };
  vfio::Reply handle(vfio::GetInfo request);
  vfio::Reply handle(vfio::GetRegionInfo request);
  vfio::Reply handle(vfio::GetIrqInfo request);
  vfio::Reply handle(vfio::SetIrqs request);
  vfio::Reply handle(vfio::RegionRead request); ///< of configuration space and BAR 0
  vfio::Reply handle(vfio::RegionWrite request);
  vfio::Reply handle(vfio::DmaMap request);
  vfio::Reply handle(vfio::DmaUnmap request);
  vfio::Reply handle(vfio::Reset request);

  std::uint64_t region_size(std::uint32_t region) const;
  void write_window(vfio::RegionWrite request, vfio::Completion done);
  void read_registers(std::uint64_t offset, std::span<std::byte> data) const;
  void write_registers(std::uint64_t offset, std::span<const std::byte> data);
  void reset_registers();
  void update_interrupts();

  Bridge* bridge_; ///< null once this end has been left
  Side side_;
  PciConfig config_;
  Registers registers_;
  std::shared_ptr<HostMemory> memory_;
  Interrupts interrupts_{vectors, false};
  std::uint64_t signalled_ = 0; ///< status bits that are active and have fired
  std::array<std::byte, vectors * 16> msix_table_{};
  std::map<std::uint64_t, Owed> owed_;
  std::uint64_t next_owed_ = 0;
  std::vector<vfio::Completion> held_;
};

} // namespace smartio::sim::ntb
