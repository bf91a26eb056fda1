#include "interrupt.hpp"

namespace smartio::detail {
namespace {

constexpr std::uint32_t set_eventfds = vfio::irq_data_eventfd | vfio::irq_action_trigger;
constexpr std::uint32_t disable = vfio::irq_data_none | vfio::irq_action_trigger;

constexpr std::uint32_t unmask = vfio::irq_data_none | vfio::irq_action_unmask;

vfio::SetIrqs no_eventfds(std::uint32_t index, unsigned start, unsigned count) {
  return {set_eventfds, index, start, count, {}, {}};
}

} // namespace

Result<void> Vector::enable() {
  if (vector >= core->description.vectors)
    return fail(Errc::bad_request, "The device has {} interrupt vectors, no vector {}", core->description.vectors,
                vector);
  event = TRY(make_eventfd());
  vfio::SetIrqs assign{set_eventfds, core->description.interrupts, vector, 1, {}, {}};
  assign.eventfds.push_back(TRY(event.duplicate()));
  return core->await<Result<void>>([this, &assign](auto done) {
    if (core->vectors_taken.contains(vector))
      return done(fail(Errc::busy, "Vector {} is in use by another part of this program", vector));
    // Where the number of vectors cannot change once they are on (VFIO_IRQ_INFO_NORESIZE), all are turned on first.
    if (core->vectors_taken.empty() && core->description.vectors_fixed)
      core->submit(no_eventfds(core->description.interrupts, 0, core->description.vectors), [](vfio::Reply) {});
    core->vectors_taken.insert(vector);
    core->submit(std::move(assign), [this, done](vfio::Reply reply) {
      auto answer = DeviceCore::answer_of<vfio::Done>(std::move(reply), fmt::format("enable vector {}", vector));
      taken = answer.has_value();
      if (taken) return done({});
      core->vectors_taken.erase(vector);
      done(std::unexpected(std::move(answer).error()));
    });
  });
}

// VFIO masks the line when it fires, since it stays asserted until the device was seen to.
Result<void> Vector::rearm() {
  if (core->description.interrupts != vfio::intx) return {};
  TRY(core->request<vfio::Done>(vfio::SetIrqs{unmask, vfio::intx, vector, 1, {}, {}}, "unmask the interrupt"));
  return {};
}

Vector::~Vector() {
  if (!taken) return;
  core->await<bool>([this](auto done) {
    core->vectors_taken.erase(vector);
    const bool last = core->vectors_taken.empty();
    const auto index = core->description.interrupts;
    auto request = last ? vfio::SetIrqs{disable, index, 0, 0, {}, {}} : no_eventfds(index, vector, 1);
    core->submit(std::move(request), [done](vfio::Reply) { done(true); });
  });
}

} // namespace smartio::detail

namespace smartio {

Interrupt::Interrupt(std::unique_ptr<detail::Vector> impl) noexcept : impl_(std::move(impl)) {}
Interrupt::Interrupt() noexcept = default;
Interrupt::Interrupt(Interrupt&&) noexcept = default;
Interrupt& Interrupt::operator=(Interrupt&&) noexcept = default;
Interrupt::~Interrupt() = default;
int Interrupt::fd() const noexcept { return impl_->event.get(); }
Result<void> Interrupt::rearm() const { return impl_->rearm(); }

} // namespace smartio
