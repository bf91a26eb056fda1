// The registers in BAR 0 of one end of the bridge, of any width and alignment: what is stored, which bits can be
// written, what a write asks for. What they do to the other end is the bridge's.
#pragma once

#include "chip.hpp"

#include <optional>
#include <span>
#include <vector>

namespace smartio::sim::ntb {

class Registers {
public:
  Registers(const Chip& chip, Side side, std::uint64_t window_bytes);

  /// Within register_bytes. The peer's scratchpads read as ones here.
  void read(std::uint64_t offset, std::span<std::byte> data) const;
  /// Returns the doorbells that were written with 1.
  [[nodiscard]] std::uint32_t write(std::uint64_t offset, std::span<const std::byte> data);

  void reset();        ///< as after power-on
  void lose_windows(); ///< translations, limits and scratchpads return to their initial values

  bool link_wanted() const;
  void show_link(bool up); ///< a change of the link: status and its interrupt bit
  void ring(unsigned doorbell) { status_ |= std::uint64_t{1} << doorbell; }
  std::uint64_t active() const; ///< interrupt status bits that are not disabled
  unsigned vector(unsigned bit) const { return bytes_[chip_.vector_map + bit]; }

  /// A scratchpad's byte, as the other side reads and writes it; `index` counts bytes.
  std::byte scratchpad(std::size_t index) const { return std::byte{bytes_[register_offset::scratchpads + index]}; }
  void set_scratchpad(std::size_t index, std::byte value);

  /// Where an access of the other side through window `index` lands, `bar_address` being this side's BAR of that
  /// window; nullopt where the window is not open.
  std::optional<std::uint64_t> translate(unsigned index, std::uint64_t bar_address, std::uint64_t offset,
                                         std::uint64_t bytes) const;
  bool forwards() const; ///< generation 3: may send requests over the link
  bool snoops_inbound(unsigned window) const { return snoops(2, window); } ///< what comes from the link
  bool snoops_outbound(unsigned window) const { return snoops(4, window); }
  void count_miss();              ///< generation 3: an access from the other side that no window took
  bool translation_stuck = false; ///< a fault: the translation base keeps its value

private:
  bool snoops(unsigned bit, unsigned window) const;
  bool has_base_index() const;
  void put(std::size_t offset, std::uint64_t value, std::size_t width, std::uint64_t writable);
  std::uint64_t get(std::size_t offset, std::size_t width) const;
  void write_byte(std::size_t at, std::uint8_t value);
  void clear_status(unsigned byte, std::uint8_t ones);

  const Chip& chip_;
  std::uint64_t window_bytes_;
  std::uint64_t status_ = 0; ///< interrupt status
  std::vector<std::uint8_t> bytes_, writable_, initial_;
};

} // namespace smartio::sim::ntb
