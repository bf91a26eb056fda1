#include "interrupts.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <bit>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <string_view>
#include <unistd.h>

namespace smartio::sim {

namespace {

bool is_eventfd(int fd) {
  std::array<char, 64> target{};
  const auto length = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target.data(), target.size());
  return length > 0 && std::string_view(target.data(), static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
}

bool blocks(int fd) { return (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0; }

bool is_ready(int fd, short event) {
  pollfd wait{fd, event, 0};
  return ::poll(&wait, 1, 0) == 1 && (wait.revents & event) != 0;
}

constexpr std::uint32_t data_kinds = vfio::irq_data_none | vfio::irq_data_bool | vfio::irq_data_eventfd;
constexpr std::uint32_t actions = vfio::irq_action_mask | vfio::irq_action_unmask | vfio::irq_action_trigger;

bool well_formed(const vfio::SetIrqs& request) {
  const std::uint32_t kind = request.flags & data_kinds, action = request.flags & actions;
  if (request.flags != (kind | action) || std::popcount(kind) != 1 || std::popcount(action) != 1) return false;
  const std::size_t bools = kind == vfio::irq_data_bool ? request.count : 0;
  if (request.bools.size() != bools) return false;
  if (!request.eventfds.empty() && (kind != vfio::irq_data_eventfd || request.eventfds.size() != request.count))
    return false;
  return std::all_of(request.eventfds.begin(), request.eventfds.end(),
                     [](const Fd& fd) { return !fd || is_eventfd(fd.get()); });
}

} // namespace

std::span<Interrupts::Vector> Interrupts::of(std::uint32_t index) {
  if (index == vfio::msix) return msix_vectors_;
  if (index == vfio::intx) return intx_;
  if (index == vfio::err) return error_;
  return {};
}

std::expected<vfio::IrqInfo, int> Interrupts::info(std::uint32_t index) const {
  const auto lines = static_cast<std::uint32_t>(intx_.size()),
             vectors = static_cast<std::uint32_t>(msix_vectors_.size());
  switch (index) {
  case vfio::intx:
    return vfio::IrqInfo{vfio::irq_flag_eventfd | vfio::irq_flag_maskable | vfio::irq_flag_automasked, lines};
  case vfio::msix: return vfio::IrqInfo{vfio::irq_flag_eventfd | vfio::irq_flag_noresize, vectors};
  case vfio::err: return vfio::IrqInfo{vfio::irq_flag_eventfd | vfio::irq_flag_noresize, 1};
  case vfio::msi:
  case vfio::req: return vfio::IrqInfo{0, 0};
  default: return std::unexpected(EINVAL);
  }
}

std::expected<void, int> Interrupts::set(vfio::SetIrqs request) {
  if (!well_formed(request)) return std::unexpected(EINVAL);
  const auto all = of(request.index);
  if (!in_range(request.start, request.count, all.size())) return std::unexpected(EINVAL);
  const bool none = (request.flags & vfio::irq_data_none) != 0;
  if ((request.flags & vfio::irq_action_trigger) == 0) return mask(request);
  if (request.count == 0) {
    if (!none || request.start != 0 || request.index >= vfio::irq_count) return std::unexpected(EINVAL);
    disable(request.index);
    return {};
  }
  return (request.flags & vfio::irq_data_eventfd) != 0 ? assign(request) : trigger_by_hand(request);
}

std::expected<void, int> Interrupts::assign(vfio::SetIrqs& request) {
  const auto range = of(request.index).subspan(request.start, request.count);
  if (request.index == vfio::msix) msix_ = true;
  for (std::size_t i = 0; i < range.size(); ++i) {
    range[i].eventfd = request.eventfds.empty() ? Fd() : std::move(request.eventfds[i]);
    range[i].blocking = range[i].eventfd && blocks(range[i].eventfd.get());
    if (range[i].eventfd && std::exchange(range[i].pending, false)) signal(range[i]);
  }
  if (request.index == vfio::intx) {
    intx_masked_ = false;
    update_line();
  }
  return {};
}

std::expected<void, int> Interrupts::trigger_by_hand(const vfio::SetIrqs& request) {
  const auto range = of(request.index).subspan(request.start, request.count);
  for (std::size_t i = 0; i < range.size(); ++i) {
    if (range[i].eventfd && (request.bools.empty() || request.bools[i] != 0)) signal(range[i]);
  }
  return {};
}

std::expected<void, int> Interrupts::mask(vfio::SetIrqs& request) {
  if (request.index != vfio::intx || request.count != 1) return std::unexpected(EINVAL);
  const bool unmask = (request.flags & vfio::irq_action_unmask) != 0;
  if ((request.flags & vfio::irq_data_eventfd) != 0) { // an eventfd of the client whose signal means "unmask"
    if (!unmask) return std::unexpected(EINVAL);
    resample_ = request.eventfds.empty() ? Fd() : std::move(request.eventfds[0]);
    return {};
  }
  if (!request.bools.empty() && request.bools[0] == 0) return {};
  intx_masked_ = !unmask;
  update_line();
  return {};
}

void Interrupts::disable(std::uint32_t index) {
  for (Vector& vector : of(index)) vector = {};
  if (index == vfio::msix) msix_ = false;
  if (index == vfio::intx) {
    resample_.reset();
    intx_masked_ = false;
  }
}

void Interrupts::signal(Vector& vector) {
  ++signals_;
  // A full counter is an interrupt the client has yet to take: nothing is lost by not adding to it.
  if (!vector.blocking || is_ready(vector.eventfd.get(), POLLOUT)) signal_eventfd(vector.eventfd.get());
}

void Interrupts::trigger(unsigned vector) {
  if (!msix_ || vector >= msix_vectors_.size()) return;
  Vector& target = msix_vectors_[vector];
  if (!target.eventfd) {
    target.pending = true;
  } else {
    signal(target);
  }
}

void Interrupts::set_line(bool asserted) {
  if (asserted == line_) return;
  line_ = asserted;
  update_line();
}

void Interrupts::update_line() {
  if (!line_ || intx_masked_ || msix_ || intx_.empty() || !intx_[0].eventfd) return;
  intx_masked_ = true;
  signal(intx_[0]);
}

void Interrupts::poll() {
  if (!resample_ || !intx_masked_ || !is_ready(resample_.get(), POLLIN)) return;
  drain_eventfd(resample_.get());
  intx_masked_ = false;
  update_line();
}

void Interrupts::drop_pending() {
  for (Vector& vector : msix_vectors_) vector.pending = false;
  line_ = false;
}

std::vector<std::byte> Interrupts::pending_bits() const {
  std::vector<std::byte> bits((msix_vectors_.size() + 63) / 64 * 8);
  for (std::size_t i = 0; i < msix_vectors_.size(); ++i) {
    if (msix_vectors_[i].pending) bits[i / 8] |= static_cast<std::byte>(1U << (i % 8));
  }
  return bits;
}

} // namespace smartio::sim
