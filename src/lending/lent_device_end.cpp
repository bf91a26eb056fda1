// How a use of a lent device ends: core's order of steps, done to the device.
#include "lent_device.hpp"

#include "ask.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>

namespace smartio {

namespace asio = boost::asio;

namespace {

std::optional<Error> failure_of(const vfio::Reply& reply, const char* what) {
  if (reply) return std::nullopt;
  return Error{std::error_code(reply.error(), std::system_category()), what};
}

} // namespace

asio::awaitable<void> LentDevice::run(std::shared_ptr<LentDevice> /*self*/, Job job) {
  std::vector<std::shared_ptr<Session>> sessions;
  for (const auto& session : sessions_)
    if (job.only ? session == job.only : session->loan == job.loan) sessions.push_back(session);
  core::EndOfLoan order(job.last, job.keep);
  const bool fresh = fresh_ && sessions.empty(); // its last client's end did all that there is to do
  while (order.step() != Step::done && !closed_) {
    const auto step = order.step();
    std::optional<Error> failure;
    if (!fresh || step == Step::tell_clients) failure = co_await perform(step, job, sessions);
    order.finished(std::move(failure));
  }
  if (job.last) fresh_ = !order.verdict() && open_.device;
  if (job.last) *vectors_ = {};
  std::erase_if(sessions_, [&sessions](const auto& s) { return std::ranges::find(sessions, s) != sessions.end(); });
  working_ = false;
  idle_timer_.cancel();
  if (closed_) co_return;
  if (job.keep)
    events_(core::UseEnded{job.loan, order.verdict()});
  else
    events_(core::LoanEnded{job.loan, order.verdict()});
  work();
}

asio::awaitable<std::optional<Error>> LentDevice::perform(Step step, const Job& job,
                                                          const std::vector<std::shared_ptr<Session>>& sessions) {
  switch (step) {
  case Step::close_epoch:
    for (const auto& session : sessions) session->device->close_epoch();
    break;
  case Step::bus_master_off: co_return co_await bus_master_off();
  case Step::interrupts_off: co_return co_await interrupts_off(job.last, sessions);
  case Step::unmap_windows: co_return co_await unmap(job.last, sessions);
  case Step::tell_clients: co_await tell_clients(job.loan); break;
  case Step::withdraw_bars:
    for (const auto& session : sessions) disconnect(*session);
    if (job.last) co_await withdraw_registers(open_.device.get());
    break;
  case Step::reset: {
    if (!description_.can_reset) break; // its owner lends it all the same
    vfio::Request request = vfio::Reset{};
    const auto reply = co_await ask_now(std::move(request));
    if (lost_) break; // what is gone needs no reset
    co_return failure_of(reply, "reset the device");
  }
  case Step::close_device: co_await close_now(); break;
  case Step::open_device: {
    const auto opened = co_await open_now();
    if (!opened) co_return opened.error();
    break;
  }
  case Step::done: break;
  }
  co_return std::nullopt;
}

/// As ask(), with an error where the device is not open (any more).
asio::awaitable<vfio::Reply> LentDevice::ask_now(vfio::Request request) {
  const auto device = open_.device;
  if (!device) co_return std::unexpected(ENODEV);
  auto reply = co_await ask(*device, std::move(request));
  co_return std::move(reply);
}

asio::awaitable<std::optional<Error>> LentDevice::bus_master_off() {
  vfio::Request request = vfio::RegionRead{vfio::config_region, 4, 2};
  auto reply = co_await ask_now(std::move(request));
  auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
  if (data == nullptr || data->bytes.size() != 2) co_return failure_of(reply, "read the command register");
  data->bytes[0] &= ~std::byte{4}; // bus master enable: PCI Local Bus 3.0, 6.2.2
  request = vfio::RegionWrite{vfio::config_region, 4, data->bytes};
  reply = co_await ask_now(std::move(request));
  co_return failure_of(reply, "switch bus mastering off");
}

asio::awaitable<std::optional<Error>>
LentDevice::interrupts_off(bool all, const std::vector<std::shared_ptr<Session>>& sessions) {
  std::optional<Error> failure;
  for (const auto& session : sessions) {
    auto own = session->device->release_vectors();
    for (auto& irqs : own) {
      if (all) break;
      vfio::Request request = std::move(irqs);
      const auto reply = co_await ask_now(std::move(request));
      if (!reply) failure = failure_of(reply, "disable an interrupt");
    }
  }
  for (std::uint32_t index = 0; index <= vfio::msix; ++index) {
    const auto used = [index](const auto& s) { return s->device->used_interrupts(index); };
    if (!all || std::ranges::none_of(sessions, used)) continue;
    vfio::Request request = vfio::SetIrqs{vfio::irq_data_none | vfio::irq_action_trigger, index, 0, 0, {}, {}};
    const auto reply = co_await ask_now(std::move(request));
    if (!reply) failure = failure_of(reply, "disable interrupts");
  }
  co_return failure;
}

asio::awaitable<std::optional<Error>> LentDevice::unmap(bool all,
                                                        const std::vector<std::shared_ptr<Session>>& sessions) {
  std::optional<Error> failure;
  if (all) {
    vfio::Request request = vfio::DmaUnmap{Iova{}, 0, true};
    const auto reply = co_await ask_now(std::move(request));
    failure = failure_of(reply, "unmap every window");
    if (reply) peers_->unmapped(open_.device.get(), {Iova{}, 0, true});
  }
  for (const auto& session : sessions) {
    const auto windows = session->device->windows();
    for (const auto& [iova, window] : windows) {
      if (all) break;
      const vfio::DmaUnmap range{Iova{iova}, window.size};
      vfio::Request request = range;
      const auto reply = co_await ask_now(std::move(request));
      if (!reply) failure = failure_of(reply, "unmap a window");
      if (reply) peers_->unmapped(open_.device.get(), range);
    }
    if (!failure) session->device->windows_gone();
  }
  co_return failure;
}

asio::awaitable<void> LentDevice::tell_clients(core::LoanId loan) {
  awaiting_release_ = loan;
  release_timer_.expires_after(client_patience);
  events_(core::TellClients{loan});
  if (awaiting_release_) co_await release_timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  awaiting_release_.reset();
}

} // namespace smartio
