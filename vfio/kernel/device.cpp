#include "device.hpp"

#include "result.hpp"

#include <boost/asio/post.hpp>

namespace smartio::vfio::kernel {

namespace asio = boost::asio;

/// The function is the thread's alone: used by its jobs, and destroyed by the last. The rest is written before the
/// event loop reads it.
struct Device::Shared {
  Fd request_event, error_event; ///< here, because opening may outlive the Device
  std::unique_ptr<Function> function;
  Interface interface = Interface::automatic;
  unsigned group = 0;
  std::vector<IovaRange> ranges;
};

namespace {

int to_errno(const Error& error) { return error.code.category() == std::system_category() ? error.code.value() : EIO; }

} // namespace

Device::Device(asio::io_context& io, std::shared_ptr<Shared> shared)
    : io_(io), request_event_(io), error_event_(io), shared_(std::move(shared)) {}

Device::~Device() {
  if (worker_ && !over_) end(ECANCELED);
}

Result<std::shared_ptr<Device>> Device::make(asio::io_context& io) {
  auto shared = std::make_shared<Shared>();
  shared->request_event = TRY(make_eventfd());
  shared->error_event = TRY(make_eventfd());
  std::shared_ptr<Device> device(new Device(io, shared));
  auto request = TRY(shared->request_event.duplicate());
  auto error = TRY(shared->error_event.duplicate());
  device->request_event_.assign(request.release());
  device->error_event_.assign(error.release());
  return device;
}

void Device::open(asio::io_context& io, std::shared_ptr<System> system, Options options, Opened opened) {
  std::optional<VfToken> token;
  std::optional<Error> failure;
  if (options.vf_token) {
    auto parsed = parse_vf_token(*options.vf_token);
    if (!parsed) failure = parsed.error();
    if (parsed) token = std::move(*parsed);
  }
  auto device = make(io);
  if (!device) failure = device.error();
  if (!failure) return (*device)->start(std::move(system), options, std::move(token), std::move(opened));
  asio::post(io, [failed = *failure, done = std::move(opened)]() mutable { done(std::unexpected(std::move(failed))); });
}

void Device::start(std::shared_ptr<System> system, const Options& options, std::optional<VfToken> token,
                   Opened opened) {
  worker_ = Worker::start(io_, options.timeout, weak_from_this(), [this] { stuck(); });
  auto job = [system = std::move(system), shared = shared_, bdf = options.bdf, interface = options.interface,
              token = std::move(token)](const Progress& progress) mutable -> Result<Answer> {
    const Function::Options wanted{bdf, interface, token, shared->request_event.get(), shared->error_event.get()};
    shared->function = TRY(Function::open(std::move(system), wanted, progress));
    shared->interface = shared->function->interface();
    shared->group = shared->function->group();
    shared->ranges = shared->function->ranges();
    return Done{};
  };
  worker_->run(std::move(job), [this, bdf = options.bdf, opened = std::move(opened)](Result<Answer> result) mutable {
    if (result) return is_open(std::move(opened));
    if (!over_) end(ECANCELED);
    if (result.error().code == std::errc::timed_out)
      return opened(fail(Errc::timed_out, "The kernel did not open {} in time.", to_string(bdf)));
    opened(std::unexpected(std::move(result).error()));
  });
}

void Device::is_open(Opened opened) {
  interface_ = shared_->interface;
  group_ = shared_->group;
  ranges_ = std::move(shared_->ranges);
  watch(request_event_, &Device::request_fired);
  watch(error_event_, &Device::error_fired);
  opened(shared_from_this());
}

void Device::watch(asio::posix::stream_descriptor& event, void (Device::*fired)()) {
  event.async_wait(asio::posix::stream_descriptor::wait_read,
                   [weak = weak_from_this(), &event, fired](boost::system::error_code error) {
                     const auto self = weak.lock();
                     if (error || !self || self->over_) return;
                     if (drain_eventfd(event.native_handle()) != 0) ((*self).*fired)();
                     if (!self->over_) self->watch(event, fired);
                   });
}

void Device::request_fired() {
  if (wanted_) wanted_();
}

void Device::error_fired() {
  if (client_errors_) signal_eventfd(client_errors_.get());
  if (error_) error_();
}

void Device::submit(Request request, Completion done) {
  if (over_) return done(std::unexpected(ENODEV));
  if (auto* set = std::get_if<SetIrqs>(&request); set != nullptr && set->index == err) {
    const int number = relay_errors(*set);
    return done(number == 0 ? Reply(Done{}) : std::unexpected(number));
  }
  auto job = [shared = shared_, asked = std::move(request)](const Progress& progress) {
    return shared->function->carry_out(asked, progress);
  };
  worker_->run(std::move(job), [this, done = std::move(done)](Result<Answer> result) mutable {
    answered(std::move(result), std::move(done));
  });
}

/// The kernel's ERR stays ours; the client's eventfd follows it.
int Device::relay_errors(SetIrqs& request) {
  if ((request.flags & irq_action_trigger) == 0 || request.start != 0 || request.count > 1) return EINVAL;
  if (request.count == 0 || request.flags == (irq_action_trigger | irq_data_eventfd)) {
    if (request.eventfds.size() > request.count) return EINVAL;
    client_errors_ = request.eventfds.empty() ? Fd() : std::move(request.eventfds.front());
    return 0;
  }
  if (client_errors_) signal_eventfd(client_errors_.get()); // the client tries it out
  return 0;
}

void Device::answered(Result<Answer> result, Completion done) {
  if (result) return done(std::move(*result));
  if (!over_ && failure_) failure_(result.error());
  done(std::unexpected(to_errno(result.error())));
}

/// The thread hangs in the kernel, and what it holds is released when that lets it go.
void Device::stuck() {
  const auto self = shared_from_this();
  end(ETIMEDOUT);
  if (lost_) std::exchange(lost_, nullptr)();
}

void Device::end(int number) {
  over_ = true;
  boost::system::error_code ignored;
  request_event_.close(ignored);
  error_event_.close(ignored);
  worker_->end(number, [shared = std::move(shared_)](const Progress&) mutable -> Result<Answer> {
    shared->function.reset();
    return Done{};
  });
}

void Device::close(std::move_only_function<void()> closed) {
  if (!over_) end(ECANCELED);
  worker_->when_ended(std::move(closed));
}

} // namespace smartio::vfio::kernel
