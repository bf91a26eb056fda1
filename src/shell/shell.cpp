#include "shell.hpp"

#include "frame.hpp"
#include "result.hpp"
#include "settings.hpp"

#include <boost/asio/post.hpp>

namespace smartio {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::seconds stop_patience{5}; ///< for loans to end in order; what is left is closed

/// Serves a device to a client on the local fabric.
LentDevice::Serve serve_on(fabric::Socket socket, vfio::user::Counters& counters) {
  return [socket = std::make_shared<fabric::Socket>(std::move(socket)), &counters](std::shared_ptr<vfio::Device> device,
                                                                                   std::function<void()> gone) {
    const auto connection =
        vfio::user::Connection::start(std::move(*socket), std::move(device), counters, std::move(gone));
    return std::function<void()>([connection] { connection->close(); });
  };
}

} // namespace

Result<std::unique_ptr<Shell>> Shell::open(Config config) {
  TRY(check(config));
  config = TRY(completed(std::move(config)));
  auto directories = TRY(Directories::open(config));
  auto io = std::make_unique<asio::io_context>(1);
  auto host = TRY(HostDevices::open(*io, config.state_dir, config.log));
  auto intent = TRY(directories.read_state(config.node));
  auto node = std::make_unique<core::Node>(TRY(settings_of(config)), std::move(intent));
  std::unique_ptr<Shell> shell(
      new Shell({std::move(config), std::move(directories), std::move(io), std::move(host), std::move(node)}));
  TRY(shell->listen());
  return shell;
}

Shell::Shell(Ground ground)
    : config_(std::move(ground.config)), directories_(std::move(ground.directories)), io_(std::move(ground.io)),
      host_(std::move(ground.host)),
      node_(std::move(ground.node)), context_{*io_, config_, [this](core::Event event) { handle(std::move(event)); }},
      stop_timer_(*io_), timers_(context_),
      links_(context_, [this](core::LinkId link, const std::string& payload) { device_frame(link, payload); }),
      control_(context_,
               [this](core::ControlId from, std::string name, core::Json arguments, Control::Done done) {
                 command(from, std::move(name), std::move(arguments), std::move(done));
               }),
      sources_(context_, *host_), devices_(context_, *host_, sources_),
      bridges_(context_, *host_, sources_,
               [this](const Bridges::PathRef& path) {
                 remote_loans_.lost(path);
                 // Those that are left once core has ended what is reached no more: their loans go on elsewhere.
                 asio::post(*io_, [this, path] { remote_clients_.lost(path); });
               }),
      remote_loans_(
          context_, bridges_,
          [this](core::LinkId link, const core::DeviceMessage& message) { send_device_message(link, message); }),
      remote_clients_(
          context_, *node_, bridges_, devices_,
          [this](core::LinkId link, const core::DeviceMessage& message) { send_device_message(link, message); }),
      loans_(context_, directories_.loans(), [this](::pid_t pid) { return control_.is_program(pid); }) {
  if (directories_.has_state())
    state_file_.emplace(
        *io_, directories_.state_file(), [this] { return node_->state(); },
        [this](const Result<void>& saved) {
          if (!saved) context_.log(3, "the state could not be saved: " + to_string(saved.error()));
          if (saved) context_.log(6, "the state is saved again");
          handle(core::StateSaved{saved ? std::nullopt : std::optional(saved.error())});
        });
}

Result<void> Shell::listen() {
  TRY(links_.listen());
  if (!directories_.has_run()) return {};
  fabric_ = TRY(fabric::LocalListener::listen(
      *io_, node_->fabric_token(),
      [this](const fabric::Ticket& ticket, fabric::Socket socket) { serve_local(ticket, std::move(socket)); }));
  return control_.listen(directories_.control_socket());
}

void Shell::serve_local(const fabric::Ticket& ticket, fabric::Socket socket) {
  const core::LoanId loan{ticket.device, ticket.epoch};
  const auto device = devices_.find(ticket.device);
  if (!context_.stopping && device && node_->admits(loan, ticket.nonce))
    device->attach(loan, node_->is_shared(loan), serve_on(std::move(socket), counters_));
}

/// What is plugged in, pulled out or made by SR-IOV. Without it, `scan` finds the same.
void Shell::watch_host() {
  using vfio::host::Uevent;
  auto uevents = vfio::host::Uevents::open(io_->get_executor(), [this](const Uevent& event) {
    if (event.kind == Uevent::Kind::appeared) bridges_.appeared(to_string(event.bdf));
    if (event.kind == Uevent::Kind::appeared) handle(core::DeviceAppeared{to_string(event.bdf)});
    if (event.kind == Uevent::Kind::identified) handle(core::DeviceIdentified{to_string(event.bdf)});
    if (event.kind == Uevent::Kind::vanished) handle(core::DeviceVanished{to_string(event.bdf), "it was pulled out"});
    if (event.kind == Uevent::Kind::lost) bridges_.retry(); // whichever it was
    if (event.kind == Uevent::Kind::lost) handle(core::DeviceAppeared{});
  });
  if (uevents)
    uevents_ = std::move(*uevents);
  else
    context_.log(4, "devices that appear are not noticed: " + to_string(uevents.error()));
}

void Shell::run() {
  watch_host();
  handle(core::Started{});
  links_.start();
  control_.start();
  const auto work = asio::make_work_guard(*io_);
  io_->run();
  directories_.leave();
}

void Shell::stop() {
  asio::post(*io_, [this] {
    handle(core::Stopping{});
    if (context_.stopping) return;
    stop_timer_.expires_after(stop_patience);
    stop_timer_.async_wait([this](boost::system::error_code error) {
      if (!error) stop_now();
    });
  });
}

/// Closing a device makes its server, or the kernel, stop DMA and reset it; borrowers see the connection end.
void Shell::stop_now() {
  if (std::exchange(context_.stopping, true)) return;
  stop_timer_.cancel();
  links_.stop_listening();
  control_.stop_listening();
  fabric_.reset();
  loans_.abandon_all();
  uevents_.reset();
  // Stops once the last device is closed, then the bridges, and all are back with their drivers.
  const std::shared_ptr<void> bridges_closed(nullptr, [this](void*) {
    host_->give_back_all([this](const std::vector<Error>& failures) {
      for (const auto& error : failures) context_.log(3, "a device did not go back to its driver: " + to_string(error));
      if (!failures.empty()) left_ = failures.front();
      asio::post(*io_, [this] { end(); });
    });
  });
  const std::shared_ptr<void> devices_closed(nullptr,
                                             [this, bridges_closed](void*) { bridges_.close_all(bridges_closed); });
  devices_.close_all(devices_closed);
  links_.close_all();
  timers_.clear();
}

/// The last thing: what was done is told as soon as it is on the disk, what was not is refused.
void Shell::end() {
  if (state_file_) state_file_->finish();
  for (auto& [id, request] : std::exchange(requests_, {}))
    request.done(fail(Errc::peer_down, "the node is stopping"), "");
  control_.finish_all(std::shared_ptr<void>(nullptr, [this](void*) { io_->stop(); }));
}

void Shell::handle(core::Event event) {
  if (context_.stopping) return;
  events_.push_back(std::move(event));
  if (std::exchange(handling_, true)) return;
  while (!events_.empty()) {
    auto next = std::move(events_.front());
    events_.pop_front();
    auto effects = node_->handle(std::move(next), std::chrono::system_clock::now());
    for (auto& effect : effects) std::visit([this](auto& e) { perform(e); }, effect);
  }
  handling_ = false;
}

void Shell::command(core::ControlId from, std::string name, core::Json arguments, Control::Done done) {
  asio::post(*io_,
             [this, from, name = std::move(name), arguments = std::move(arguments), done = std::move(done)]() mutable {
               if (context_.stopping) return done(fail(Errc::peer_down, "the node is stopping"), "");
               if (const auto complete = complete_addresses(name, arguments); !complete)
                 return done(std::unexpected(complete.error()), "");
               const auto request = next_request_++;
               requests_.emplace(request, Request{std::move(done), changes()});
               handle(core::Command{request, from, std::move(name), std::move(arguments)});
             });
}

void Shell::control_closed(core::ControlId control) {
  asio::post(*io_, [this, control] { handle(core::ControlClosed{control}); });
}

void Shell::watch(Control::Watcher watcher) {
  asio::post(*io_, [this, watcher = std::move(watcher)]() mutable { control_.watch(std::move(watcher)); });
}

/// What a command changed is on the disk when it is answered.
void Shell::perform(core::Reply& effect) {
  if (!state_file_) return answer(effect);
  state_file_->when_saved([this, reply = std::move(effect)]() mutable { answer(reply); });
}

void Shell::answer(core::Reply& reply) {
  auto found = requests_.extract(reply.request);
  if (found.empty()) return;
  if (const auto& unsaved = state_file_ ? state_file_->unsaved() : std::nullopt;
      unsaved && found.mapped().changes != changes())
    reply.note += fmt::format("{}not all changes could be saved, and a restart would forget them: {}; they are tried "
                              "again each second",
                              reply.note.empty() ? "" : "; ", to_string(*unsaved));
  found.mapped().done(std::move(reply.result), std::move(reply.note));
}

void Shell::perform(core::Save& effect) {
  if (state_file_) state_file_->save(effect.line);
}

void Shell::perform(core::Drop& effect) {
  links_.perform(effect);
  remote_loans_.link_ended(effect.link);
  remote_clients_.link_ended(effect.link);
}

void Shell::perform(core::ScanHost& effect) {
  host_->scan(std::move(effect.rules), std::move(effect.added),
              [this, request = effect.request](Result<std::vector<std::vector<std::string>>> matches) {
                handle(core::HostScanned{request, std::move(matches)});
              });
}

void Shell::perform(core::OpenLoan& effect) {
  loans_.open(effect, effect.fabric == core::Fabric::ntb ? remote_loans_.source(effect.loan, effect.link, effect.window)
                                                         : sources_.local(effect));
}

void Shell::send_device_message(core::LinkId link, const core::DeviceMessage& message) {
  links_.send(link, core::encode_frame(core::FrameKind::vfio_user, core::encode(message)));
}

void Shell::device_frame(core::LinkId link, const std::string& payload) {
  if (node_->peer_of(link) == NodeId{}) return handle(core::LinkDown{link, "it spoke out of turn"});
  auto message = core::decode_device_message(payload);
  if (!message) return handle(core::LinkDown{link, "it sent a malformed message for a device"});
  if (!remote_clients_.received(link, *message)) remote_loans_.received(link, std::move(*message));
}

} // namespace smartio
