#include "interrupts.hpp"

#include "mapping.hpp"
#include "result.hpp"

#include <cstring>

namespace smartio::vfio::kernel {
namespace {

constexpr std::uint32_t assign = irq_data_eventfd | irq_action_trigger;
constexpr std::uint32_t switch_off = irq_data_none | irq_action_trigger;

std::vector<std::byte> encode(const std::vector<std::int32_t>& descriptors) {
  std::vector<std::byte> bytes(descriptors.size() * sizeof(std::int32_t));
  std::memcpy(bytes.data(), descriptors.data(), bytes.size());
  return bytes;
}

/// What follows struct vfio_irq_set: nothing, a byte or a descriptor (-1: none) for each interrupt.
std::optional<std::vector<std::byte>> payload(const SetIrqs& request) {
  std::vector<std::byte> bytes;
  if ((request.flags & irq_data_bool) != 0) {
    if (request.bools.size() != request.count) return std::nullopt;
    for (const auto value : request.bools) bytes.push_back(static_cast<std::byte>(value));
  }
  if ((request.flags & irq_data_eventfd) == 0) return bytes;
  if (!request.eventfds.empty() && request.eventfds.size() != request.count) return std::nullopt;
  std::vector<std::int32_t> descriptors(request.count, -1);
  for (std::size_t i = 0; i < request.eventfds.size(); ++i) descriptors[i] = request.eventfds[i].get();
  return encode(descriptors);
}

std::string what(std::uint32_t index) { return fmt::format("VFIO_DEVICE_SET_IRQS index {}", index); }

} // namespace

Interrupts::Interrupts(std::shared_ptr<System> system, int device) : system_(std::move(system)), device_(device) {
  for (std::uint32_t index = 0; index < irq_count; ++index) // an index that the function lacks is EINVAL
    info_[index] = system_->irq_info(device_, index).value_or(IrqInfo{});
}

Result<void> Interrupts::set_own(std::uint32_t index, int eventfd) {
  if (info_[index].count == 0) return {};
  const auto done = system_->set_irqs(device_, assign, index, 0, 1, encode({eventfd}));
  if (!done) return fail_errno(done.error(), what(index));
  return {};
}

Result<void> Interrupts::set(const SetIrqs& request) {
  if (request.index > msix || !in_range(request.start, request.count, info_[request.index].count))
    return fail_errno(EINVAL, what(request.index));
  const bool assigns = request.flags == assign;
  const bool intx_gone = assigns && request.index == intx && request.eventfds.empty();
  if ((request.count == 0 && request.flags == switch_off) || intx_gone) return disable(request.index);
  if (assigns && enabled_ != request.index && (info_[request.index].flags & irq_flag_noresize) != 0)
    TRY(enable_all(request.index));
  TRY(apply(request));
  if (assigns) enabled_ = request.index;
  return {};
}

/// Where the kernel cannot add vectors later without disabling the ones there are (and losing their interrupts), all
/// are allocated at once, silent, and clients then assign them one by one.
Result<void> Interrupts::enable_all(std::uint32_t index) {
  TRY(apply(SetIrqs{assign, index, 0, info_[index].count, {}, {}}));
  enabled_ = index;
  return {};
}

Result<void> Interrupts::disable(std::uint32_t index) {
  if (enabled_ != index) return {}; // the kernel calls it EINVAL
  TRY(apply(SetIrqs{switch_off, index, 0, 0, {}, {}}));
  enabled_.reset();
  return {};
}

Result<void> Interrupts::silence() { return enabled_ ? disable(*enabled_) : Result<void>(); }

Result<void> Interrupts::apply(const SetIrqs& request) {
  const auto data = payload(request);
  if (!data) return fail_errno(EINVAL, what(request.index));
  const auto done = system_->set_irqs(device_, request.flags, request.index, request.start, request.count, *data);
  if (!done) return fail_errno(done.error(), what(request.index));
  if (*done > 0)
    return fail_errno(ENOSPC, fmt::format("{}: the host gives {} vectors, not {}", what(request.index), *done,
                                          request.start + request.count));
  return {};
}

} // namespace smartio::vfio::kernel
