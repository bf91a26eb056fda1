// The regions of one open function: BARs, expansion ROM and configuration space. Blocks.
#pragma once

#include "system.hpp"

#include <smartio/error.hpp>

namespace smartio::vfio::kernel {

class Registers {
public:
  static constexpr std::uint32_t most_bytes = 1024 * 1024; ///< of one access

  /// `device` is borrowed. EIO, with a sentence: the device does not answer.
  static Result<Registers> open(std::shared_ptr<System> system, int device, std::uint32_t regions);

  std::uint32_t count() const { return static_cast<std::uint32_t>(regions_.size()); }
  /// With a descriptor of its own, where something can be mapped: of the device, or with `dma_buf` of the registers
  /// alone, where the kernel can map such.
  Result<RegionInfo> info(std::uint32_t index, bool dma_buf) const;

  /// A device that is gone, or whose memory space is off, reads as ones, and writes are lost, as on the bus. Other
  /// errors: EINVAL (outside the region), EACCES (no such right), or the kernel's own.
  Result<Data> read(const RegionRead& request) const;
  Result<void> write(const RegionWrite& request) const;

  /// Switches bus mastering off, and memory space on: without it registers do not answer.
  Result<void> quiesce() const;

private:
  Registers(std::shared_ptr<System> system, int device) : system_(std::move(system)), device_(device) {}
  Result<void> check(std::uint32_t index, std::uint64_t offset, std::uint64_t count, std::uint32_t right) const;
  Result<void> hide_msix();
  void hide(std::uint32_t index, std::uint64_t offset, std::uint64_t size);
  std::optional<Fd> mappable_dma_buf(std::uint32_t index) const;

  std::shared_ptr<System> system_;
  int device_;
  std::vector<Region> regions_;
};

} // namespace smartio::vfio::kernel
