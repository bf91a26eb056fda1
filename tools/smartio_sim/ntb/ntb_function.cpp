#include "ntb_function.hpp"

#include "mapping.hpp"

#include <bit>
#include <cerrno>
#include <utility>

namespace smartio::sim::ntb {

namespace {

constexpr std::uint32_t register_bar = 0;

/// Which window a region is; window_count for the others.
constexpr unsigned window_of(std::uint32_t region) { return region == 2 ? 0 : region == 4 ? 1 : window_count; }

template <std::size_t size> bool lies_in(std::uint64_t at, std::uint64_t first) {
  return at >= first && at - first < size;
}

std::vector<std::byte> ones(std::size_t bytes) { return std::vector(bytes, std::byte{0xff}); }

} // namespace

NtbFunction::NtbFunction(Bridge& bridge, Side side, Messages messages)
    : bridge_(&bridge), side_(side), config_(bridge.chip(), side, bridge.window_bytes()),
      registers_(bridge.chip(), side, bridge.window_bytes()),
      memory_(std::make_shared<HostMemory>(std::move(messages))) {
  for (std::size_t i = 12; i < msix_table_.size(); i += 16) msix_table_[i] = std::byte{1}; // masked
}

void NtbFunction::on_lost(std::move_only_function<void()>) {}

void NtbFunction::leave() {
  bridge_ = nullptr;
  memory_.reset(); // and with it all that would still happen when a message is answered
  abandon_reads();
  release_writes();
}

void NtbFunction::submit(vfio::Request request, vfio::Completion done) {
  if (bridge_ == nullptr) return done(std::unexpected(ENODEV));
  if (auto* read = std::get_if<vfio::RegionRead>(&request)) {
    if (!in_range(read->offset, read->count, region_size(read->region))) return done(std::unexpected(EINVAL));
    const unsigned window = window_of(read->region);
    if (window < window_count) return bridge_->read_window(side_, window, read->offset, read->count, std::move(done));
  }
  if (auto* write = std::get_if<vfio::RegionWrite>(&request)) {
    if (!in_range(write->offset, write->data.size(), region_size(write->region))) return done(std::unexpected(EINVAL));
    if (window_of(write->region) < window_count) return write_window(std::move(*write), std::move(done));
  }
  done(std::visit([this](auto& what) { return handle(std::move(what)); }, request));
}

/// Writes are posted: they are complete once they are on their way. One that finds the other host far behind is kept,
/// which slows this host down; but never both hosts at once, who would then wait for each other.
void NtbFunction::write_window(vfio::RegionWrite request, vfio::Completion done) {
  const bool behind = bridge_->write_window(side_, window_of(request.region), request.offset, std::move(request.data));
  const auto* peer = bridge_->end(other(side_));
  if (behind && !peer->holds_writes()) return held_.push_back(std::move(done));
  done(vfio::Done{});
}

void NtbFunction::release_writes() {
  for (auto& done : std::exchange(held_, {})) done(vfio::Done{});
}

std::uint64_t NtbFunction::region_size(std::uint32_t region) const {
  if (region == vfio::config_region) return PciConfig::size;
  if (region == register_bar) return register_bytes;
  return window_of(region) < window_count ? bridge_->window_bytes() : 0;
}

vfio::Reply NtbFunction::handle(vfio::GetInfo) {
  return vfio::Info{vfio::device_flag_reset | vfio::device_flag_pci, vfio::region_count, vfio::irq_count};
}

vfio::Reply NtbFunction::handle(vfio::GetRegionInfo request) {
  if (request.index >= vfio::region_count) return std::unexpected(EINVAL);
  vfio::RegionInfo info{};
  info.size = region_size(request.index);
  if (info.size != 0) info.flags = vfio::region_flag_read | vfio::region_flag_write;
  return info;
}

vfio::Reply NtbFunction::handle(vfio::GetIrqInfo request) { return interrupts_.info(request.index); }

vfio::Reply NtbFunction::handle(vfio::SetIrqs request) {
  const auto set = interrupts_.set(std::move(request));
  if (!set) return std::unexpected(set.error());
  update_interrupts();
  return vfio::Done{};
}

vfio::Reply NtbFunction::handle(vfio::RegionRead request) {
  vfio::Data data{std::vector<std::byte>(request.count)};
  if (request.region == vfio::config_region)
    config_.read(request.offset, data.bytes);
  else
    read_registers(request.offset, data.bytes);
  return data;
}

vfio::Reply NtbFunction::handle(vfio::RegionWrite request) {
  if (request.region == register_bar) {
    write_registers(request.offset, request.data);
    return vfio::Done{};
  }
  if (config_.write(request.offset, request.data)) {
    config_.function_level_reset();
    reset_registers();
  }
  update_interrupts();
  return vfio::Done{};
}

vfio::Reply NtbFunction::handle(vfio::DmaMap request) {
  if (const auto mapped = memory_->windows().map(std::move(request)); !mapped) return std::unexpected(mapped.error());
  return vfio::Done{};
}

vfio::Reply NtbFunction::handle(vfio::DmaUnmap request) {
  const auto unmapped = memory_->windows().unmap(request);
  if (!unmapped) return std::unexpected(unmapped.error());
  return vfio::Unmapped{*unmapped};
}

/// Windows and eventfds are the client's, as with VFIO_DEVICE_RESET, and stay.
vfio::Reply NtbFunction::handle(vfio::Reset) {
  config_.reset();
  reset_registers();
  return vfio::Done{};
}

void NtbFunction::reset_registers() {
  ++bridge_->count(side_).resets;
  abandon_reads();
  registers_.reset();
  bridge_->update_link();
  registers_.reset(); // this end has nothing to tell of the link going down
  interrupts_.drop_pending();
  signalled_ = 0;
  msix_table_.fill(std::byte{0});
  for (std::size_t i = 12; i < msix_table_.size(); i += 16) msix_table_[i] = std::byte{1}; // masked
}

void NtbFunction::read_registers(std::uint64_t offset, std::span<std::byte> data) const {
  registers_.read(offset, data);
  const std::uint64_t peer_scratchpads = bridge_->chip().peer_scratchpads;
  auto* peer = bridge_->peer_over_link(side_);
  const auto pending = interrupts_.pending_bits();
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::uint64_t at = offset + i;
    if (peer != nullptr && lies_in<4 * scratchpad_count>(at, peer_scratchpads))
      data[i] = peer->registers().scratchpad(at - peer_scratchpads);
    if (lies_in<vectors * 16>(at, msix_table_offset)) data[i] = msix_table_[at - msix_table_offset];
    if (at >= msix_pba_offset && at - msix_pba_offset < pending.size()) data[i] = pending[at - msix_pba_offset];
  }
}

void NtbFunction::write_registers(std::uint64_t offset, std::span<const std::byte> data) {
  registers_.translation_stuck = bridge_->faults().translation_stuck;
  const std::uint32_t rung = registers_.write(offset, data);
  const std::uint64_t peer_scratchpads = bridge_->chip().peer_scratchpads;
  auto* peer = bridge_->peer_over_link(side_);
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::uint64_t at = offset + i;
    if (peer != nullptr && lies_in<4 * scratchpad_count>(at, peer_scratchpads))
      peer->registers().set_scratchpad(at - peer_scratchpads, data[i]);
    if (lies_in<vectors * 16>(at, msix_table_offset)) msix_table_[at - msix_table_offset] = data[i];
  }
  if (rung != 0) bridge_->ring(side_, rung);
  bridge_->update_link();
  update_interrupts();
}

void NtbFunction::show_link(bool up) {
  registers_.show_link(up);
  config_.show_link(up ? bridge_->chip().link_up : std::uint16_t{0});
  if (!up) abandon_reads();
  update_interrupts();
}

void NtbFunction::ring(unsigned doorbell) {
  registers_.ring(doorbell);
  update_interrupts();
}

/// A status bit fires its vector when it becomes active. What cannot be sent yet fires as soon as it can.
void NtbFunction::update_interrupts() {
  const std::uint64_t active = config_.bus_master() && interrupts_.msix() ? registers_.active() : 0;
  for (std::uint64_t fresh = active & ~signalled_; fresh != 0; fresh &= fresh - 1)
    interrupts_.trigger(registers_.vector(static_cast<unsigned>(std::countr_zero(fresh))));
  signalled_ = active;
}

std::uint64_t NtbFunction::owe(std::uint32_t bytes, vfio::Completion done) {
  owed_.emplace(next_owed_, Owed{bytes, std::move(done)});
  return next_owed_++;
}

void NtbFunction::settle(std::uint64_t number, std::expected<std::vector<std::byte>, int> result) {
  const auto found = owed_.find(number);
  if (found == owed_.end() || bridge_ == nullptr) return; // it was abandoned
  auto owed = std::move(found->second);
  owed_.erase(found);
  auto& counters = bridge_->count(side_);
  if (result)
    counters.read_bytes += owed.bytes;
  else
    ++counters.unanswered_reads;
  owed.done(vfio::Data{result ? std::move(*result) : ones(owed.bytes)});
}

unsigned NtbFunction::abandon_reads() {
  auto owed = std::exchange(owed_, {});
  if (bridge_ != nullptr) bridge_->count(side_).unanswered_reads += owed.size();
  for (auto& [number, read] : owed) read.done(vfio::Data{ones(read.bytes)});
  return static_cast<unsigned>(owed.size());
}

} // namespace smartio::sim::ntb
