#include "lent_device.hpp"

#include "completed.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

namespace smartio {

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

constexpr auto reopen_patience = 2000ms; // for a device's server to notice that its client has gone, or to start again
constexpr auto first_pause = 5ms, longest_pause = 160ms;

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

} // namespace

LentDevice::LentDevice(asio::io_context& io, DeviceId id, DeviceSource source, std::shared_ptr<RegisterWindows> peers,
                       Events events)
    : io_(io), id_(id), source_(std::move(source)), peers_(std::move(peers)), events_(std::move(events)),
      release_timer_(io), idle_timer_(io) {}

void LentDevice::open(asio::io_context& io, DeviceId id, DeviceSource source, std::shared_ptr<RegisterWindows> peers,
                      Events events, Opened opened) {
  std::shared_ptr<LentDevice> device(new LentDevice(io, id, std::move(source), std::move(peers), std::move(events)));
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
  std::chrono::milliseconds time = first_pause;
  while (!opened && may_change(opened.error()) && std::chrono::steady_clock::now() < deadline && !closed_) {
    asio::steady_timer timer(io_); // nothing tells when another process has read the end of its socket, or unmapped
    co_await pause(timer, time);
    time = std::min<std::chrono::milliseconds>(2 * time, longest_pause);
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
    const auto why = why_lost();
    co_await close_now();
    if (why) co_return fail(Errc::bad_request, "{}", *why);
    co_return std::unexpected(description.error());
  }
  if (!open_.device) co_return fail(Errc::wrong_state, "the device was closed meanwhile");
  if (!open_.needs_reset.empty() && !description->can_reset) {
    const auto why = open_.needs_reset;
    co_await close_now();
    co_return fail(Errc::not_permitted, "{}", why);
  }
  description_ = std::move(*description);
  description_.identity.interface = open_.interface;
  description_.identity.iommu_group = open_.iommu_group;
  description_.identity.driver = open_.driver;
  lost_ = false;
  watch();
  co_return Result<void>{};
}

std::optional<std::string> LentDevice::why_lost() const {
  auto why = open_.why_lost ? open_.why_lost() : std::string();
  return why.empty() ? std::nullopt : std::optional(std::move(why));
}

/// Whether it is worth a moment's wait: somebody still has the device as this node had it, or its server starts again.
bool LentDevice::may_change(const Error& error) const {
  if (error.code == Errc::busy) return source_.comes_back || description_.identity.vendor != 0;
  return error.code == Errc::peer_down && source_.comes_back;
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
    self->events_(core::DeviceLost{self->id_, self->why_lost().value_or(self->source_.lost)});
  });
  if (!open_.on_error) return;
  open_.on_error([weak = weak_from_this(), device = open_.device.get()] {
    const auto self = weak.lock();
    if (!self || self->closed_ || self->open_.device.get() != device) return;
    self->events_(core::DeviceLost{self->id_, "the device reported an error that cannot be corrected (AER)"});
  });
}

void LentDevice::attach(core::LoanId loan, bool shared, Serve serve) {
  for (const auto& session : std::vector(sessions_)) // a client that has gone, or is about to be replaced
    if (!shared || session->loan == loan) session_closed(session);
  std::erase_if(arrivals_, [&](const Arrival& arrival) { return !shared || arrival.loan == loan; });
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
  asio::co_spawn(io_, shut_down(shared_from_this(), std::move(closed)), asio::detached);
}

/// A job under way ends soon, since the device answers nothing any more; it may have opened the device meanwhile.
asio::awaitable<void> LentDevice::shut_down(std::shared_ptr<LentDevice> /*self*/,
                                            std::move_only_function<void()> closed) {
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
    asio::co_spawn(io_, run(shared_from_this(), std::move(job)), asio::detached);
    return;
  }
  while (!working_ && !arrivals_.empty()) { // one that left while it waited is a job at once
    const auto slice = arrivals_.front().shared ? free_slice() : std::nullopt;
    if (arrivals_.front().shared && !slice) return;
    auto arrival = std::move(arrivals_.front());
    arrivals_.pop_front();
    serve(std::move(arrival), slice);
  }
}

/// The lowest that no client has. One that is leaving has its own until it is cleaned up.
std::optional<unsigned> LentDevice::free_slice() const {
  for (unsigned slice = 0; slice < iova_slices; ++slice)
    if (std::ranges::none_of(sessions_, [slice](const auto& s) { return s->device->slice() == slice; })) return slice;
  return std::nullopt;
}

void LentDevice::serve(Arrival arrival, std::optional<unsigned> slice) {
  const auto session = std::make_shared<Session>();
  session->loan = arrival.loan;
  session->device =
      std::make_shared<ClientDevice>(open_.device, description_, slice, open_.filters_config, peers_, vectors_);
  sessions_.push_back(session);
  fresh_ = false;
  session->disconnect = arrival.serve(session->device, [weak = weak_from_this(), session] {
    if (const auto self = weak.lock()) self->session_closed(session);
  });
}

void LentDevice::disconnect(Session& session) {
  if (auto disconnect = std::exchange(session.disconnect, nullptr)) disconnect();
}

} // namespace smartio
