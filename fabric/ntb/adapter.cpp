#include "ntb/adapter.hpp"

#include "page.hpp"
#include "result.hpp"

#include <bit>
#include <linux/pci_regs.h>

namespace smartio::fabric::ntb {

namespace {

constexpr std::uint64_t all_bits = 0x1ffffffff;
constexpr std::uint64_t memory_and_bus_master = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

bool no_window(unsigned index, Adapter::Done& done) {
  if (index < window_count) return false;
  done(fail(Errc::bad_request, "A bridge has {} windows; {} is none.", window_count, index));
  return true;
}

} // namespace

/// Their steps must not mix: two that program one window would each find the other's values.
void Adapter::take_turn(std::shared_ptr<Steps> steps, Done done) {
  waiting_.push_back({std::move(steps), std::move(done)});
  if (waiting_.size() == 1) next_turn();
}

void Adapter::next_turn() {
  waiting_.front().steps->run([self = shared_from_this()](Result<void> result) {
    std::exchange(self->waiting_.front().done, nullptr)(std::move(result)); // what this asks for comes later
    self->waiting_.pop_front();
    if (!self->waiting_.empty()) self->next_turn();
  });
}

/// Until a window is asked for the peer reaches nothing, and no doorbell signals.
void Adapter::prepare(Steps& steps) const {
  steps.change_config(PCI_COMMAND, 2, 0, memory_and_bus_master);
  steps.write(interrupt_disable, 8, all_bits);
  if (shape_.generation == 3) steps.write(secondary_command, 2, memory_and_bus_master);
  for (unsigned i = 0; i < window_count; ++i) program(steps, i, {});
  map_vectors(steps);
}

/// After power-on doorbell i has vector i + 1 and the link 0. On generation 3 vector 32 does not work (Linux:
/// NTB_HWERR_MSIX_VECTOR32_BAD).
void Adapter::map_vectors(Steps& steps) const {
  const std::uint32_t map = shape_.generation == 3 ? 0xd0 : 0x50; // INTVEC
  for (unsigned i = 0; i < vector_count; ++i)
    steps.write(map + i, 1, shape_.generation == 3 && i == link_event ? link_event - 1 : i);
}

void Adapter::start(std::vector<Fd> events, Done done) {
  if (events.size() != vector_count)
    return done(fail(Errc::bad_request, "A bridge has {} vectors, not {}.", vector_count, events.size()));
  auto steps = Steps::on(device_);
  prepare(*steps);
  acknowledge_link(*steps);
  steps->write(interrupt_status, 8, all_bits);
  const auto count = static_cast<std::uint32_t>(events.size());
  steps->ask(
      "VFIO_DEVICE_SET_IRQS MSI-X",
      vfio::SetIrqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, count, {}, std::move(events)});
  steps->write(interrupt_disable, 8, all_bits & ~link_bits_);
  windows_ = {};
  enabled_ = 0;
  started_ = true;
  take_turn(std::move(steps), std::move(done));
}

void Adapter::recover(Done done) {
  auto steps = Steps::on(device_);
  prepare(*steps);
  for (unsigned i = 0; i < window_count; ++i) program(*steps, i, windows_[i]);
  if (started_) steps->write(interrupt_disable, 8, all_bits & ~(link_bits_ | enabled_));
  if (link_wanted_) want_link(*steps, true);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::want_link(Steps& steps, bool up) const {
  if (shape_.generation == 3) {
    steps.change(control, 4, up ? config_lock_and_disable : snooping, up ? snooping : config_lock_and_disable);
    return;
  }
  if (up)
    steps.write(control, 4, snooping); // without the bits that forbid it, whatever firmware left
  else
    steps.change(control, 4, snooping, 0);
  steps.change(link_control, 2, link_disable, up ? 0 : link_disable);
  if (up) steps.change(ppd0, 4, 0, start_training);
}

void Adapter::enable_link(Done done) {
  link_wanted_ = true;
  auto steps = Steps::on(device_);
  want_link(*steps, true);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::disable_link(Done done) {
  link_wanted_ = false;
  auto steps = Steps::on(device_);
  want_link(*steps, false);
  take_turn(std::move(steps), std::move(done));
}

/// On generation 4 the event cannot be cleared before the slot's record of it. On generation 3 a doorbell that shares
/// the link's vector goes with it.
void Adapter::acknowledge_link(Steps& steps) const {
  if (shape_.generation == 4) steps.write(slot_status, 2, link_changed);
  steps.write(interrupt_status, 8, link_bits_);
}

template <class T> void Adapter::tell(std::shared_ptr<Steps> steps, std::shared_ptr<T> found, Told<T> told) {
  steps->run([found = std::move(found), told = std::move(told)](Result<void> done) mutable {
    if (!done) return told(std::unexpected(std::move(done).error()));
    told(std::move(*found));
  });
}

void Adapter::read_link(Told<Link> told) {
  auto steps = Steps::on(device_);
  auto link = std::make_shared<Link>();
  const auto look = [link](std::uint64_t status) -> Result<void> {
    // Of a device that is not there any more everything is ones.
    link->up = (status & link_active) != 0 && status != 0xffff;
    if (link->up) *link = {true, static_cast<unsigned>(status & 0xf), static_cast<unsigned>(status >> 4 & 0x3f)};
    return {};
  };
  acknowledge_link(*steps);
  if (shape_.generation == 3)
    steps->read_config(config_link_status, 2, look);
  else
    steps->read(link_status, 2, look);
  tell(std::move(steps), std::move(link), std::move(told));
}

/// Closed first, so that no access comes out half way between the old translation and the new one.
void Adapter::program(Steps& steps, unsigned index, const Window& window) const {
  const std::uint32_t step = index * window_step;
  steps.set(limit + step, 8, bar_[index]);
  steps.set(translation_base + step, 8, window.base);
  if (window.bytes == 0) return;
  // Only for Ice Lake (whose alignment is 0): Linux leaves it alone on Sapphire Rapids.
  if (shape_.generation == 4 && shape_.alignment == 0)
    steps.set(base_index + 2 * index, 2, std::bit_width(window.bytes) - 1U);
  if (shape_.generation == 3) steps.set(secondary_limit + step, 8, secondary_bar_[index] + window.bytes);
  steps.set(limit + step, 8, bar_[index] + window.bytes);
}

void Adapter::open_window(unsigned index, Iova base, std::uint64_t bytes, Done done) {
  if (no_window(index, done)) return;
  const std::uint64_t at = static_cast<std::uint64_t>(base), most = shape_.window_bytes[index];
  const std::uint64_t alignment = shape_.alignment != 0 ? shape_.alignment : most;
  if (at % alignment != 0 || bytes == 0 || bytes % page_size != 0 || bytes > most)
    return done(fail(Errc::bad_request, "{:#x} bytes at {:#x} are no window: alignment {:#x}, at most {:#x} bytes.",
                     bytes, at, alignment, most));
  windows_[index] = {at, bytes};
  auto steps = Steps::on(device_);
  program(*steps, index, windows_[index]);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::close_window(unsigned index, Done done) {
  if (no_window(index, done)) return;
  windows_[index] = {};
  auto steps = Steps::on(device_);
  program(*steps, index, {});
  take_turn(std::move(steps), std::move(done));
}

DoorbellTarget Adapter::doorbell_target(unsigned bit) const { return {0, doorbells + 4 * bit, 4, 1}; }

void Adapter::ring(unsigned bit, Done done) {
  if (bit >= doorbell_count || (shape_.usable_doorbells >> bit & 1) == 0)
    return done(fail(Errc::bad_request, "The bridge has no doorbell {}.", bit));
  auto steps = Steps::on(device_);
  steps->write(doorbells + 4 * bit, 4, 1);
  steps->run(std::move(done));
}

void Adapter::read_doorbells(Told<std::uint64_t> told) {
  auto steps = Steps::on(device_);
  auto bits = std::make_shared<std::uint64_t>();
  steps->read(interrupt_status, 8, [bits, usable = shape_.usable_doorbells](std::uint64_t status) -> Result<void> {
    if (status == UINT64_MAX) return fail_errno(ENODEV, "read the bridge's doorbells");
    *bits = status & usable;
    return {};
  });
  tell(std::move(steps), std::move(bits), std::move(told));
}

void Adapter::clear_doorbells(std::uint64_t bits, Done done) {
  auto steps = Steps::on(device_);
  steps->write(interrupt_status, 8, bits & shape_.usable_doorbells);
  steps->run(std::move(done));
}

void Adapter::enable_doorbells(std::uint64_t bits, Done done) {
  enabled_ = bits & shape_.usable_doorbells;
  auto steps = Steps::on(device_);
  steps->write(interrupt_disable, 8, all_bits & ~(link_bits_ | enabled_));
  take_turn(std::move(steps), std::move(done));
}

void Adapter::write_peer_scratchpad(unsigned index, std::uint32_t value, Done done) {
  if (index >= scratchpad_count) return done(fail(Errc::bad_request, "The bridge has no scratchpad {}.", index));
  auto steps = Steps::on(device_);
  steps->write((shape_.generation == 3 ? 0x180 : 0x8080) + 4 * index, 4, value); // B2B_SPAD, EM_SPAD
  steps->run(std::move(done));
}

void Adapter::read_scratchpad(unsigned index, Told<std::uint32_t> told) {
  if (index >= scratchpad_count) return told(fail(Errc::bad_request, "The bridge has no scratchpad {}.", index));
  auto steps = Steps::on(device_);
  auto value = std::make_shared<std::uint32_t>();
  steps->read(scratchpads + 4 * index, 4, [value](std::uint64_t found) -> Result<void> {
    *value = static_cast<std::uint32_t>(found);
    return {};
  });
  tell(std::move(steps), std::move(value), std::move(told));
}

} // namespace smartio::fabric::ntb
