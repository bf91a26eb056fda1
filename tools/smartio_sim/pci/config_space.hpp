// PCI configuration space of a model: what is there, which bits can be written, and what a reset leaves. The registers
// themselves are each model's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace smartio::sim {

class ConfigSpace {
public:
  static constexpr std::size_t size = 4096;

  /// `offset` and the size of `data` are within `size`.
  void read(std::uint64_t offset, std::span<std::byte> data) const;
  /// Changes the writable bits; true when the write asks for a function level reset (not carried out here).
  [[nodiscard]] bool write(std::uint64_t offset, std::span<const std::byte> data);

  bool bus_master() const;       ///< may do DMA and MSI-X
  bool intx_disabled() const;    ///< Command bit 10
  void show_line(bool asserted); ///< Interrupt Status
  /// A 64-bit memory BAR's address, as it was written last. `index` is that of its lower half.
  std::uint64_t bar_address(unsigned index) const;

  void reset();                ///< as after power-on
  void function_level_reset(); ///< the same, but the BARs stay: a client that emulates them would not write them again

protected:
  /// `device_control` is where the PCI Express capability has that register.
  explicit ConfigSpace(std::size_t device_control) : device_control_(device_control) {}
  void put(std::size_t offset, std::uint32_t value, std::size_t width, std::uint32_t writable = 0);
  /// What every function has at the start of its header; the first capability is at `capabilities`.
  void put_header(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code, std::size_t capabilities);
  void put_bar(unsigned index, std::uint64_t bytes, bool prefetchable); ///< 64 bits
  // Capabilities at `at`, the next one at `next` (0: none).
  void put_power_management(std::size_t at, std::size_t next); ///< D0 and D3hot
  /// The table and the pending bits are in BAR 0, at these offsets.
  void put_msix(std::size_t at, std::size_t next, unsigned vectors, std::uint32_t table, std::uint32_t pending);
  /// An endpoint, the last capability: its Device and Link Capabilities and its Link Status.
  void put_express(std::size_t at, std::uint32_t device, std::uint32_t link, std::uint16_t link_status);
  void show(std::size_t offset, std::uint16_t value); ///< changes what is read until the next reset

private:
  void put_capability(std::size_t at, std::uint8_t id, std::size_t next);

  std::size_t device_control_;
  std::array<std::uint8_t, size> bytes_{}, writable_{}, initial_{};
};

} // namespace smartio::sim
