#include "ntb/adapter.hpp"

#include "page.hpp"
#include "result.hpp"

namespace smartio::fabric::ntb {

namespace {

bool no_window(unsigned index, Adapter::Done& done) {
  if (index < window_count) return false;
  done(fail(Errc::bad_request, "A bridge has {} windows; {} is none.", window_count, index));
  return true;
}

} // namespace

void Adapter::open(std::shared_ptr<vfio::Device> device, Told<std::shared_ptr<Adapter>> opened) {
  std::shared_ptr<Adapter> adapter(new Adapter(device));
  auto steps = Steps::on(std::move(device));
  steps->read_config(0, 4, [adapter, &steps = *steps](std::uint64_t id) -> Result<void> {
    adapter->driver_ = TRY(driver_of(static_cast<std::uint32_t>(id)));
    adapter->driver_->identify(steps);
    return {};
  });
  steps->run([adapter, opened = std::move(opened)](Result<void> done) mutable {
    if (!done) return opened(std::unexpected(std::move(done).error()));
    opened(std::move(adapter));
  });
}

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

void Adapter::start(std::vector<Fd> events, Done done) {
  if (events.size() != vector_count)
    return done(fail(Errc::bad_request, "A bridge has {} vectors, not {}.", vector_count, events.size()));
  auto steps = Steps::on(device_);
  driver_->prepare(*steps);
  driver_->clear_signals(*steps);
  const auto count = static_cast<std::uint32_t>(events.size());
  steps->ask(
      "VFIO_DEVICE_SET_IRQS MSI-X",
      vfio::SetIrqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, count, {}, std::move(events)});
  driver_->enable_signals(*steps, 0);
  windows_ = {};
  enabled_ = 0;
  started_ = true;
  take_turn(std::move(steps), std::move(done));
}

void Adapter::recover(Done done) {
  auto steps = Steps::on(device_);
  driver_->prepare(*steps);
  for (unsigned i = 0; i < window_count; ++i) driver_->set_window(*steps, i, windows_[i].base, windows_[i].bytes);
  if (started_) driver_->enable_signals(*steps, enabled_);
  if (link_wanted_) driver_->want_link(*steps, true);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::enable_link(Done done) {
  link_wanted_ = true;
  auto steps = Steps::on(device_);
  driver_->want_link(*steps, true);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::disable_link(Done done) {
  link_wanted_ = false;
  auto steps = Steps::on(device_);
  driver_->want_link(*steps, false);
  take_turn(std::move(steps), std::move(done));
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
  driver_->read_link(*steps, link);
  tell(std::move(steps), std::move(link), std::move(told));
}

void Adapter::open_window(unsigned index, Iova base, std::uint64_t bytes, Done done) {
  if (no_window(index, done)) return;
  const std::uint64_t at = static_cast<std::uint64_t>(base), most = shape().window_bytes[index];
  const std::uint64_t alignment = shape().alignment != 0 ? shape().alignment : most;
  if (at % alignment != 0 || bytes == 0 || bytes % page_size != 0 || bytes > most)
    return done(fail(Errc::bad_request, "{:#x} bytes at {:#x} are no window: alignment {:#x}, at most {:#x} bytes.",
                     bytes, at, alignment, most));
  windows_[index] = {at, bytes};
  auto steps = Steps::on(device_);
  driver_->set_window(*steps, index, at, bytes);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::close_window(unsigned index, Done done) {
  if (no_window(index, done)) return;
  windows_[index] = {};
  auto steps = Steps::on(device_);
  driver_->set_window(*steps, index, 0, 0);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::ring(unsigned bit, Done done) {
  if (bit >= doorbell_count || (shape().usable_doorbells >> bit & 1) == 0)
    return done(fail(Errc::bad_request, "The bridge has no doorbell {}.", bit));
  auto steps = Steps::on(device_);
  driver_->ring(*steps, bit);
  steps->run(std::move(done));
}

void Adapter::read_doorbells(Told<std::uint64_t> told) {
  auto steps = Steps::on(device_);
  auto bits = std::make_shared<std::uint64_t>();
  driver_->read_doorbells(*steps, bits);
  tell(std::move(steps), std::move(bits), std::move(told));
}

void Adapter::clear_doorbells(std::uint64_t bits, Done done) {
  auto steps = Steps::on(device_);
  driver_->clear_doorbells(*steps, bits);
  steps->run(std::move(done));
}

void Adapter::enable_doorbells(std::uint64_t bits, Done done) {
  enabled_ = bits & shape().usable_doorbells;
  auto steps = Steps::on(device_);
  driver_->enable_signals(*steps, enabled_);
  take_turn(std::move(steps), std::move(done));
}

void Adapter::write_peer_scratchpad(unsigned index, std::uint32_t value, Done done) {
  if (index >= scratchpad_count) return done(fail(Errc::bad_request, "The bridge has no scratchpad {}.", index));
  auto steps = Steps::on(device_);
  driver_->write_peer_scratchpad(*steps, index, value);
  steps->run(std::move(done));
}

void Adapter::read_scratchpad(unsigned index, Told<std::uint32_t> told) {
  if (index >= scratchpad_count) return told(fail(Errc::bad_request, "The bridge has no scratchpad {}.", index));
  auto steps = Steps::on(device_);
  auto value = std::make_shared<std::uint32_t>();
  driver_->read_scratchpad(*steps, index, value);
  tell(std::move(steps), std::move(value), std::move(told));
}

} // namespace smartio::fabric::ntb
