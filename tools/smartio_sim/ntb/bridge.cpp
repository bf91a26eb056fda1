#include "bridge.hpp"

#include "ntb_function.hpp"

#include <bit>
#include <cassert>
#include <utility>

namespace smartio::sim::ntb {

namespace {

constexpr std::size_t most_held = 65536, most_held_bytes = 16 * 1024 * 1024;

std::size_t index_of(Side side) { return static_cast<std::size_t>(side); }

} // namespace

Bridge::Bridge(const Chip& chip, std::uint64_t window_bytes, std::function<void()> train)
    : chip_(chip), window_bytes_(window_bytes), train_(std::move(train)) {
  assert(std::has_single_bit(window_bytes) && window_bytes >= 4096);
}

Bridge::~Bridge() {
  detach(Side::a);
  detach(Side::b);
}

std::shared_ptr<vfio::Device> Bridge::attach(Side side, Messages messages) {
  detach(side);
  auto& place = ends_[index_of(side)];
  place = std::make_shared<NtbFunction>(*this, side, std::move(messages));
  place->memory().on_idle([this, side] {
    if (auto* writer = end(other(side))) writer->release_writes();
  });
  return place;
}

void Bridge::detach(Side side) {
  const auto gone = std::exchange(ends_[index_of(side)], nullptr);
  if (!gone) return;
  update_link();
  add_up(count(side), *gone);
  gone->leave();
  if (auto* peer = end(other(side))) peer->release_writes();
}

Counters Bridge::counters(Side side) const {
  Counters sum = counters_[index_of(side)];
  if (auto* function = end(side)) add_up(sum, *function);
  return sum;
}

/// What a function counts by itself.
void Bridge::add_up(Counters& sum, NtbFunction& function) {
  sum.interrupts += function.interrupts_signalled();
  sum.messages += function.memory().messages_sent();
  sum.refused_writes += function.memory().refused_writes();
}

std::size_t Bridge::memory_windows(Side side) const {
  auto* function = end(side);
  return function == nullptr ? 0 : function->memory().windows().windows();
}

void Bridge::set_faults(const Faults& faults) {
  faults_ = faults;
  update_link();
  release();
}

bool Bridge::link_wanted() const {
  auto *a = end(Side::a), *b = end(Side::b);
  return a != nullptr && b != nullptr && !faults_.link_down && a->registers().link_wanted() &&
         b->registers().link_wanted();
}

/// Down at once, up after training: drivers do not expect a link that is up before they have finished asking for it.
void Bridge::update_link() {
  const bool wanted = link_wanted();
  if (!wanted) training_ = false;
  if (wanted == link_up_ || training_) return;
  if (!wanted || !train_) return set_link(wanted);
  training_ = true;
  train_();
}

void Bridge::trained() {
  if (std::exchange(training_, false)) set_link(true);
}

void Bridge::set_link(bool up) {
  link_up_ = up;
  ++link_changes_;
  if (!up) {
    held_writes_.clear();
    held_bytes_ = 0;
    held_doorbells_.clear();
  }
  for (auto* function : {end(Side::a), end(Side::b)}) {
    if (function == nullptr) continue;
    if (!up && faults_.loses_registers) function->registers().lose_windows();
    function->show_link(up);
  }
}

void Bridge::ring(Side from, std::uint32_t doorbells) {
  for (; doorbells != 0; doorbells &= doorbells - 1) {
    const auto bit = static_cast<unsigned>(std::countr_zero(doorbells));
    ++count(from).doorbells;
    if (!link_up_ || faults_.doorbells == Passing::lost || held_doorbells_.size() >= most_held)
      ++count(from).lost_doorbells;
    else if (faults_.doorbells == Passing::held)
      held_doorbells_.push_back({from, bit});
    else
      deliver_doorbell(from, bit);
  }
}

/// Data that was sent before must be there first; messages take their time, an eventfd does not.
void Bridge::deliver_doorbell(Side from, unsigned bit) {
  auto* target = end(other(from));
  target->memory().after_writes([this, from, bit, weak = target->weak_from_this()] {
    const auto function = weak.lock();
    if (!function || end(other(from)) != function.get()) return;
    if (link_up_)
      function->ring(bit);
    else
      ++count(from).lost_doorbells;
  });
}

/// Where an access comes out in the other host's memory; nullopt when it does not.
std::optional<std::uint64_t> Bridge::locate(Side from, unsigned window, std::uint64_t offset, std::uint64_t bytes) {
  if (!link_up_ || !end(from)->registers().forwards()) return std::nullopt;
  auto* target = end(other(from));
  const auto address =
      target->registers().translate(window, target->config().bar_address(2 + 2 * window), offset, bytes);
  if (!address) target->registers().count_miss();
  return target->config().bus_master() ? address : std::nullopt;
}

void Bridge::read_window(Side from, unsigned window, std::uint64_t offset, std::uint32_t bytes, vfio::Completion done) {
  auto* reader = end(from);
  ++count(from).reads;
  push_writes(from);
  const auto number = reader->owe(bytes, std::move(done));
  const auto address = locate(from, window, offset, bytes);
  if (!address || faults_.reads_time_out) return reader->settle(number, std::unexpected(ETIMEDOUT));
  auto* target = end(other(from));
  if (target->memory().read_needs_messages(*address, bytes))
    count(other(from)).crossed_reads += target->abandon_reads();
  target->memory().read(*address, bytes,
                        [weak = reader->weak_from_this(), number](std::expected<std::vector<std::byte>, int> result) {
                          if (const auto function = weak.lock()) function->settle(number, std::move(result));
                        });
}

/// A read does not pass a write that went before it (PCI Express Base 5.0, 2.4.1).
void Bridge::push_writes(Side from) {
  std::deque<HeldWrite> kept;
  for (auto& write : std::exchange(held_writes_, {})) {
    if (write.from != from) {
      kept.push_back(std::move(write));
      continue;
    }
    held_bytes_ -= write.data.size();
    deliver_write(write);
  }
  held_writes_ = std::move(kept);
}

bool Bridge::write_window(Side from, unsigned window, std::uint64_t offset, std::vector<std::byte> data) {
  ++count(from).writes;
  HeldWrite write{from, window, offset, std::move(data)};
  if (!link_up_ || faults_.writes == Passing::lost)
    ++count(from).dropped_writes;
  else if (faults_.writes == Passing::held)
    hold(std::move(write));
  else if (faults_.writes == Passing::torn)
    tear(std::move(write));
  else
    deliver_write(write);
  auto* target = end(other(from));
  return target != nullptr && target->memory().busy();
}

/// What was torn before is made whole first: writes stay in order.
void Bridge::tear(HeldWrite write) {
  push_writes(write.from);
  const std::size_t first = (write.data.size() + 1) / 2;
  HeldWrite rest{write.from, write.window, write.offset + first, {}};
  rest.data.assign(write.data.begin() + static_cast<std::ptrdiff_t>(first), write.data.end());
  write.data.resize(first);
  deliver_write(write);
  if (!rest.data.empty()) hold(std::move(rest));
}

/// Whether processors see what goes through the window: both ends make it look at their caches. Not verified how a
/// bridge without that goes wrong; here the data stays behind the caches for good.
bool Bridge::coherent(Side from, unsigned window) const {
  return end(from)->registers().snoops_outbound(window) && end(other(from))->registers().snoops_inbound(window);
}

void Bridge::deliver_write(const HeldWrite& write) {
  auto address = locate(write.from, write.window, write.offset, write.data.size());
  if (address && !coherent(write.from, write.window)) address.reset();
  const int error = address ? end(other(write.from))->memory().write(*address, write.data) : ENXIO;
  if (error == 0)
    count(write.from).written_bytes += write.data.size();
  else
    ++count(write.from).dropped_writes;
}

void Bridge::hold(HeldWrite write) {
  if (held_writes_.size() >= most_held || held_bytes_ + write.data.size() > most_held_bytes) {
    ++count(write.from).dropped_writes;
    return;
  }
  held_bytes_ += write.data.size();
  held_writes_.push_back(std::move(write));
}

/// What is no longer held goes on its way, in order, or is lost.
void Bridge::release() {
  if (faults_.writes != Passing::held && faults_.writes != Passing::torn) {
    held_bytes_ = 0;
    for (const auto& write : std::exchange(held_writes_, {})) {
      if (faults_.writes == Passing::normal)
        deliver_write(write);
      else
        ++count(write.from).dropped_writes;
    }
  }
  if (faults_.doorbells != Passing::held) {
    for (const auto& [from, bit] : std::exchange(held_doorbells_, {})) {
      if (faults_.doorbells == Passing::normal)
        deliver_doorbell(from, bit);
      else
        ++count(from).lost_doorbells;
    }
  }
}

} // namespace smartio::sim::ntb
