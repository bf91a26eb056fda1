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
  void put_bar(unsigned index, std::uint64_t bytes, bool prefetchable); ///< 64 bits
  void show(std::size_t offset, std::uint16_t value);                   ///< changes what is read until the next reset

private:
  std::size_t device_control_;
  std::array<std::uint8_t, size> bytes_{}, writable_{}, initial_{};
};

} // namespace smartio::sim
