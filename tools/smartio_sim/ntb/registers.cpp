#include "registers.hpp"

#include "mapping.hpp"
#include "page.hpp"

#include <algorithm>
#include <linux/pci_regs.h>

namespace smartio::sim::ntb {

using namespace register_offset;

namespace {

constexpr std::uint16_t link_disable = 0x10;              // LINK_CTRL
constexpr std::uint8_t link_changed_high = 0x01;          // SLOTSTS: data link layer state changed, bit 8
constexpr std::uint32_t start_training = 0x8;             // PPD0
constexpr std::uint32_t config_lock = 0x1, disable = 0x2; // NTBCNTL of generation 3

bool within(std::size_t at, std::size_t first, std::size_t bytes) { return at >= first && at - first < bytes; }

/// How much of a window is open: a limit is an address behind the last byte. What Linux leaves in it before it sets up
/// a window is no address of the BAR at all, so the window is open only if the limit lies in or just behind the BAR.
std::uint64_t open_bytes(std::uint64_t base, std::uint64_t size, std::uint64_t limit_address) {
  const bool inside = limit_address >= base && limit_address - base <= size;
  return inside ? limit_address - base : 0;
}

} // namespace

Registers::Registers(const Chip& chip, Side side, std::uint64_t window_bytes)
    : chip_(chip), window_bytes_(window_bytes), bytes_(register_bytes), writable_(register_bytes) {
  const std::uint64_t in_pages = ~(page_size - 1), in_windows = ~(window_bytes - 1);
  for (unsigned i = 0; i < window_count; ++i) {
    put(translation_base + i * window_step, 0, 8, chip.bar_aligned ? in_windows : in_pages);
    put(limit + i * window_step, 0, 8, in_pages);
  }
  put(interrupt_disable, 0, 8, 0x1ffffffff);
  for (unsigned i = 0; i < vectors; ++i) put(chip.vector_map + i, (i + 1) % vectors, 1, 0x3f);
  for (unsigned i = 0; i < scratchpad_count; ++i) put(scratchpads + 4 * i, 0, 4, 0xffffffff);
  if (chip.generation == 4) {
    put(control, 0, 4, 0x7fe);
    // Not verified: on Sapphire Rapids, where Linux does not use it, it does not exist.
    for (unsigned i = 0; i < window_count && has_base_index(); ++i) put(base_index + 2 * i, 0, 2, 0x3f);
    put(link_control, 0, 2, link_disable);
    put(ppd0, 0, 4, start_training);
    put(ppd1, side == Side::a ? chip.position_of_a : chip.position_of_b, 4, 0);
  } else {
    put(control, config_lock | disable, 4, 0x3ff);
    put(secondary_base, 0, 8, in_pages);
    put(secondary_command, 0, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put(secondary_bar0, 0x4, 8, ~(register_bytes - 1));
    for (unsigned i = 0; i < window_count; ++i) {
      put(secondary_translation + i * window_step, 0, 8, in_windows);
      put(secondary_limit + i * window_step, 0, 8, in_pages);
      put(secondary_bar + 8 * i, 0xc, 8, in_windows);
    }
  }
  initial_ = bytes_;
}

void Registers::put(std::size_t offset, std::uint64_t value, std::size_t width, std::uint64_t writable) {
  for (std::size_t i = 0; i < width; ++i) {
    bytes_[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    writable_[offset + i] = static_cast<std::uint8_t>(writable >> (8 * i));
  }
}

std::uint64_t Registers::get(std::size_t offset, std::size_t width) const {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width; ++i) value |= std::uint64_t{bytes_[offset + i]} << (8 * i);
  return value;
}

void Registers::read(std::uint64_t offset, std::span<std::byte> data) const {
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::size_t at = offset + i;
    std::uint8_t value = bytes_[at];
    if (within(at, interrupt_status, 8)) value = static_cast<std::uint8_t>(status_ >> (8 * (at - interrupt_status)));
    if (within(at, chip_.peer_scratchpads, 4 * scratchpad_count)) value = 0xff;
    data[i] = std::byte{value};
  }
}

std::uint32_t Registers::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t rung = 0;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::size_t at = offset + i;
    const auto value = static_cast<std::uint8_t>(data[i]);
    const bool doorbell = within(at, doorbells, 4 * doorbell_count) && at % 4 == 0;
    if (doorbell && (value & 1) != 0) rung |= std::uint32_t{1} << ((at - doorbells) / 4);
    write_byte(at, value);
  }
  return rung;
}

void Registers::write_byte(std::size_t at, std::uint8_t value) {
  if (within(at, interrupt_status, 8)) return clear_status(static_cast<unsigned>(at - interrupt_status), value);
  if (chip_.generation == 4 && at == slot_status + 1)
    bytes_[at] = static_cast<std::uint8_t>(bytes_[at] & ~(value & link_changed_high));
  for (unsigned i = 0; i < window_count; ++i)
    if (translation_stuck && within(at, translation_base + i * window_step, 8)) return;
  bytes_[at] = static_cast<std::uint8_t>((bytes_[at] & ~writable_[at]) | (value & writable_[at]));
}

/// Ones clear; the link's bit only when the slot's record of the change has been cleared before.
void Registers::clear_status(unsigned byte, std::uint8_t ones) {
  const bool held = chip_.generation == 4 && (bytes_[slot_status + 1] & link_changed_high) != 0;
  auto cleared = std::uint64_t{ones} << (8 * byte);
  if (held) cleared &= ~(std::uint64_t{1} << link_bit);
  status_ &= ~cleared;
}

void Registers::reset() {
  bytes_ = initial_;
  status_ = 0;
}

void Registers::lose_windows() {
  const auto restore = [this](std::size_t offset, std::size_t bytes) {
    std::copy_n(initial_.begin() + static_cast<std::ptrdiff_t>(offset), bytes,
                bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  };
  restore(translation_base, window_count * window_step);
  restore(scratchpads, 4 * scratchpad_count);
  if (chip_.generation == 4) restore(base_index, 2 * window_count);
  if (chip_.generation == 3) restore(secondary_translation, window_count * window_step);
}

bool Registers::link_wanted() const {
  if (chip_.generation == 3) return (get(control, 4) & disable) == 0;
  return (get(link_control, 2) & link_disable) == 0 && (get(ppd0, 4) & start_training) != 0;
}

void Registers::show_link(bool up) {
  status_ |= std::uint64_t{1} << link_bit;
  if (chip_.generation == 3) return;
  const std::uint16_t value = up ? chip_.link_up : 0;
  bytes_[link_status] = static_cast<std::uint8_t>(value);
  bytes_[link_status + 1] = static_cast<std::uint8_t>(value >> 8);
  bytes_[slot_status + 1] = link_changed_high;
}

std::uint64_t Registers::active() const { return status_ & ~get(interrupt_disable, 8); }

void Registers::set_scratchpad(std::size_t index, std::byte value) {
  bytes_[scratchpads + index] = static_cast<std::uint8_t>(value);
}

std::optional<std::uint64_t> Registers::translate(unsigned index, std::uint64_t bar_address, std::uint64_t offset,
                                                  std::uint64_t bytes) const {
  const std::uint32_t step = index * window_step;
  std::uint64_t open = open_bytes(bar_address, window_bytes_, get(limit + step, 8));
  if (chip_.generation == 3) { // the request arrives at the secondary side's BAR, which has a limit of its own
    if ((get(secondary_command, 2) & PCI_COMMAND_MEMORY) == 0) return std::nullopt;
    const std::uint64_t base = get(secondary_bar + 8 * index, 8) & ~std::uint64_t{0xf};
    open = std::min(open, open_bytes(base, window_bytes_, get(secondary_limit + step, 8)));
  }
  // The index says how many address bits pass through the window; Linux rounds down where that is not whole. Not
  // verified what hardware does with the accesses that it keeps out: here they miss.
  if (has_base_index())
    open = std::min(open, std::uint64_t{2} << std::min<std::uint64_t>(get(base_index + 2 * index, 2), 62));
  const std::uint64_t base = get(translation_base + step, 8);
  if (bytes == 0 || !in_range(offset, bytes, open) || base > UINT64_MAX - (offset + bytes - 1)) return std::nullopt;
  return base + offset;
}

bool Registers::has_base_index() const { return chip_.generation == 4 && chip_.bar_aligned; }

bool Registers::snoops(unsigned bit, unsigned window) const { return (get(control, 4) >> (bit + 4 * window) & 1) != 0; }

bool Registers::forwards() const {
  return chip_.generation == 4 || (get(secondary_command, 2) & PCI_COMMAND_MASTER) != 0;
}

void Registers::count_miss() {
  if (chip_.generation == 4) return;
  const std::uint64_t misses = get(memory_misses, 2) + 1;
  put(memory_misses, misses, 2, 0);
}

} // namespace smartio::sim::ntb
