#include "lent_device.hpp"

#include "ask.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

namespace smartio {

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

constexpr auto client_patience = 500ms;  // for clients to let go of the registers
constexpr auto reopen_patience = 2000ms; // for a device's server to notice that its client has gone

asio::awaitable<Result<OpenedDevice>> open_source(DeviceSource& source) {
  auto opened = co_await completed<Result<OpenedDevice>>([&source](auto done) { source.open(std::move(done)); });
  co_return std::move(opened);
}

asio::awaitable<std::string> ask_holders(DeviceSource& source) {
  auto names = co_await completed<std::string>([&source](auto done) { source.holders(std::move(done)); });
  co_return names;
}

asio::awaitable<void> pause(asio::steady_timer& timer, std::chrono::milliseconds time) {
  timer.expires_after(time);
  co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
}

std::optional<Error> failure_of(const vfio::Reply& reply, const char* what) {
  if (reply) return std::nullopt;
  return Error{std::error_code(reply.error(), std::system_category()), what};
}

} // namespace

LentDevice::LentDevice(asio::io_context& io, DeviceId id, DeviceSource source, vfio::user::Counters& counters,
                       std::shared_ptr<PeerWindows> peers, Events events)
    : io_(io), id_(id), source_(std::move(source)), counters_(counters), peers_(std::move(peers)),
      events_(std::move(events)), release_timer_(io), idle_timer_(io) {}

void LentDevice::open(asio::io_context& io, DeviceId id, DeviceSource source, vfio::user::Counters& counters,
                      std::shared_ptr<PeerWindows> peers, Events events, Opened opened) {
  std::shared_ptr<LentDevice> device(
      new LentDevice(io, id, std::move(source), counters, std::move(peers), std::move(events)));
  auto opening = [](std::shared_ptr<LentDevice> self, Opened done) -> asio::awaitable<void> {
    const auto result = co_await self->open_now();
    if (!result)
      done(std::unexpected(result.error()));
    else
      done(self);
  };
  asio::co_spawn(io, opening(device, std::move(opened)), asio::detached);
}

asio::awaitable<Result<void>> LentDevice::open_now() {
  const auto self = shared_from_this();
  const auto deadline = std::chrono::steady_clock::now() + reopen_patience;
  auto opened = co_await open_source(source_);
  while (!opened && opened.error().code == Errc::busy && description_.identity.vendor != 0 &&
         std::chrono::steady_clock::now() < deadline && !closed_) {
    asio::steady_timer timer(io_); // nothing tells when another process has read the end of its socket, or unmapped
    co_await pause(timer, 10ms);
    opened = co_await open_source(source_);
  }
  if (!opened) {
    auto error = opened.error();
    if (error.code == Errc::busy && source_.holders) {
      const auto names = co_await ask_holders(source_);
      if (!names.empty()) error.context = "the device is still held by " + names;
    }
    co_return std::unexpected(error);
  }
  open_ = std::move(*opened);
  auto description = co_await describe(open_.device);
  if (!description) {
    co_await close_now();
    co_return std::unexpected(description.error());
  }
  if (open_.needs_reset && !description->can_reset) {
    co_await close_now();
    co_return fail(Errc::not_permitted, "the device's reset does not work: what one borrower left in it would reach "
                                        "the next");
  }
  description_ = std::move(*description);
  description_.identity.interface = open_.interface;
  description_.identity.iommu_group = open_.iommu_group;
  description_.identity.driver = open_.driver;
  lost_ = false;
  watch();
  co_return Result<void>{};
}

asio::awaitable<void> LentDevice::close_now() {
  const auto self = shared_from_this();
  auto device = std::exchange(open_, {});
  if (!device.device) co_return;
  peers_->forget(device.device.get());
  co_await withdraw_registers(device.device.get());
  auto initiation = [&device](auto handler) {
    device.close([resume = std::move(handler)]() mutable { std::move(resume)(); });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(std::move(initiation), asio::use_awaitable);
}

asio::awaitable<void> LentDevice::withdraw_registers(const vfio::Device* device) {
  auto initiation = [peers = peers_, device](auto handler) {
    peers->withdraw(device, [resume = std::move(handler)]() mutable { std::move(resume)(); });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(std::move(initiation), asio::use_awaitable);
}

void LentDevice::watch() {
  open_.device->on_lost([weak = weak_from_this(), device = open_.device.get()] {
    const auto self = weak.lock();
    if (!self || self->closed_ || self->open_.device.get() != device) return;
    self->lost_ = true;
    self->events_(core::DeviceLost{self->id_, self->source_.lost});
  });
}

void LentDevice::attach(core::LoanId loan, bool shared, Serve serve) {
  if (!shared) // a client that has gone, or is about to be replaced
    for (const auto& session : std::vector(sessions_)) session_closed(session);
  arrivals_.push_back({loan, shared, std::move(serve)});
  work();
}

void LentDevice::session_closed(const std::shared_ptr<Session>& session) {
  if (session->ending) return;
  session->ending = true;
  const bool last = std::ranges::all_of(sessions_, [](const auto& s) { return s->ending; });
  jobs_.push_back({session->loan, last, true, session});
  work();
}

void LentDevice::end(core::LoanId loan, bool last) {
  for (const auto& session : sessions_)
    if (session->loan == loan) session->ending = true;
  std::erase_if(arrivals_, [loan](const Arrival& arrival) { return arrival.loan == loan; });
  std::erase_if(jobs_, [loan](const Job& job) { return job.keep && job.loan == loan; }); // this one does all of that
  jobs_.push_back({loan, last, false, nullptr});
  work();
}

void LentDevice::read_config(bool emulated, std::move_only_function<void(Result<std::vector<std::byte>>)> done) {
  std::shared_ptr<vfio::Device> device = open_.device;
  if (emulated && !sessions_.empty()) device = sessions_.front()->device;
  if (!device) return done(fail(Errc::wrong_state, "the device is not open"));
  const auto size = static_cast<std::uint32_t>(description_.config.size());
  device->submit(vfio::RegionRead{vfio::config_region, 0, size}, [done = std::move(done)](vfio::Reply reply) mutable {
    auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
    if (data == nullptr) return done(fail_errno(reply ? EIO : reply.error(), "read the configuration space"));
    done(std::move(data->bytes));
  });
}

void LentDevice::clients_released(core::LoanId loan) {
  if (awaiting_release_ != loan) return;
  awaiting_release_.reset();
  release_timer_.cancel();
}

void LentDevice::close(std::move_only_function<void()> closed) {
  closed_ = true;
  for (const auto& session : std::exchange(sessions_, {})) disconnect(*session);
  arrivals_.clear();
  jobs_.clear();
  release_timer_.cancel();
  asio::co_spawn(io_, shut_down(std::move(closed)), asio::detached);
}

/// A job under way ends soon, since the device answers nothing any more; it may have opened the device meanwhile.
asio::awaitable<void> LentDevice::shut_down(std::move_only_function<void()> closed) {
  const auto self = shared_from_this();
  co_await close_now();
  while (working_) {
    idle_timer_.expires_at(asio::steady_timer::time_point::max());
    co_await idle_timer_.async_wait(asio::as_tuple(asio::use_awaitable));
    co_await close_now();
  }
  closed();
}

/// Starts the next job; when there is none, lets waiting clients in.
void LentDevice::work() {
  if (working_ || closed_) return;
  if (!jobs_.empty()) {
    working_ = true;
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    asio::co_spawn(io_, run(std::move(job)), asio::detached);
    return;
  }
  while (!arrivals_.empty()) {
    auto arrival = std::move(arrivals_.front());
    arrivals_.pop_front();
    serve(std::move(arrival));
  }
}

void LentDevice::serve(Arrival arrival) {
  const auto session = std::make_shared<Session>();
  session->loan = arrival.loan;
  session->device =
      std::make_shared<ShareDevice>(open_.device, description_, arrival.shared, open_.filters_config, peers_);
  sessions_.push_back(session);
  session->disconnect = arrival.serve(session->device, [weak = weak_from_this(), session] {
    if (const auto self = weak.lock()) self->session_closed(session);
  });
}

void LentDevice::disconnect(Session& session) {
  if (auto disconnect = std::exchange(session.disconnect, nullptr)) disconnect();
}

asio::awaitable<void> LentDevice::run(Job job) {
  const auto self = shared_from_this();
  std::vector<std::shared_ptr<Session>> sessions;
  for (const auto& session : sessions_)
    if (job.only ? session == job.only : session->loan == job.loan) sessions.push_back(session);
  core::EndOfLoan order(job.last, job.keep);
  while (order.step() != Step::done && !closed_) {
    const auto step = order.step();
    auto failure = co_await perform(step, job, sessions);
    order.finished(std::move(failure));
  }
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
  case Step::interrupts_off: co_return co_await interrupts_off(sessions);
  case Step::unmap_windows: co_return co_await unmap(job.last, sessions);
  case Step::tell_clients: co_await tell_clients(job.loan); break;
  case Step::withdraw_bars:
    for (const auto& session : sessions) disconnect(*session);
    if (job.last) co_await withdraw_registers(open_.device.get());
    break;
  case Step::reset: {
    if (!description_.can_reset) break; // closing it resets it: a vfio-user server starts each client afresh
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
LentDevice::interrupts_off(const std::vector<std::shared_ptr<Session>>& sessions) {
  std::optional<Error> failure;
  for (std::uint32_t index = 0; index <= vfio::msix; ++index) {
    const auto used = [index](const auto& s) { return s->device->used_interrupts(index) && !s->device->shared(); };
    if (std::ranges::none_of(sessions, used)) continue;
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
  }
  for (const auto& session : sessions) {
    const auto windows = session->device->windows();
    for (const auto& [iova, size] : windows) {
      if (all) break;
      vfio::Request request = vfio::DmaUnmap{Iova{iova}, size};
      const auto reply = co_await ask_now(std::move(request));
      if (!reply) failure = failure_of(reply, "unmap a window");
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
