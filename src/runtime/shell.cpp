#include "shell.hpp"

#include "addresses.hpp"
#include "file.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <csignal>
#include <filesystem>
#include <random>
#include <sys/resource.h>
#include <sys/stat.h>

namespace smartio {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr std::chrono::seconds stop_patience{5}; ///< for loans to end in order; what is left is closed

/// 256 random bits as hex digits; std::random_device is the kernel's generator here.
std::string make_nonce() {
  std::random_device random;
  std::string nonce;
  for (int i = 0; i < 8; ++i) nonce += fmt::format("{:08x}", random());
  return nonce;
}

/// Above all that an earlier start used, unless the clock was set back. Below 2^53: JSON's readers may have doubles
/// only.
std::uint64_t new_epochs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count()) << 20 | 1;
}

/// Addresses of bridges, each in full.
Result<std::vector<std::string>> full_addresses(std::vector<std::string> addresses) {
  for (auto& address : addresses) {
    address = TRY(HostDevices::full_address(address));
    if (!core::is_address(address)) return fail(Errc::bad_request, "'{}' is not the address of a bridge", address);
  }
  return addresses;
}

/// What a command names of this host's devices, in full. Not core's business: libpci reads it.
Result<void> complete_addresses(const std::string& command, core::Json& arguments) {
  if (const auto device = arguments.find("device"); device != arguments.end() && device->is_string())
    *device = TRY(HostDevices::full_address(device->get_ref<const std::string&>()));
  const auto value = arguments.find("value");
  if (command != "config" || arguments.value("option", core::Json()) != "ntb" || value == arguments.end() ||
      !value->is_string())
    return {};
  const auto addresses = TRY(full_addresses(core::split_list(value->get_ref<const std::string&>())));
  *value = fmt::format("{}", fmt::join(addresses, ","));
  return {};
}

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

Shell::Shell(const Config& config)
    : config_(config), stop_timer_(io_), peers_(io_),
      accepting_peers_(
          peers_, [this](asio::ip::tcp::socket socket) { accept_peer(std::move(socket)); },
          [this](const char* text) { warn(text); }),
      names_(io_), controls_(io_),
      accepting_controls_(
          controls_, [this](asio::local::stream_protocol::socket socket) { add_control(std::move(socket)); },
          [this](const char* text) { warn(text); }),
      bridge_timer_(io_) {}

/// One `part`th of them, but not more than `most`.
std::size_t Shell::share_of_descriptors(std::size_t part, std::size_t most) {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return most;
  return std::clamp<std::size_t>(limit.rlim_cur / part, 16, most);
}

Result<std::unique_ptr<Shell>> Shell::open(const Config& config) {
  if (config.node == NodeId{}) return fail(Errc::bad_request, "a node needs an id from 1 to 65535");
  std::unique_ptr<Shell> shell(new Shell(config));
  TRY(shell->open_directories());
  shell->host_ = TRY(HostDevices::open(shell->io_, config.state_dir, config.log));
  auto intent = TRY(shell->read_state());
  std::error_code ignored;
  const auto run_dir = config.run_dir.empty() ? "" : std::filesystem::absolute(config.run_dir, ignored).string();
  const auto boot_id = TRY(read_file("/proc/sys/kernel/random/boot_id")).value_or("");
  core::Settings settings{.node = config.node,
                          .boot_id = boot_id.substr(0, boot_id.find('\n')),
                          .fabric_socket =
                              run_dir.empty() ? "" : run_dir + "/fabric.sock", // a peer has another directory
                          .nonce = make_nonce(),
                          .can_borrow = !config.run_dir.empty(),
                          .nodes = config.nodes,
                          .peer_timeout = config.peer_timeout,
                          .bridges = TRY(full_addresses(config.ntb)),
                          .first_epoch = new_epochs()};
  shell->node_ = std::make_unique<core::Node>(std::move(settings), std::move(intent));
  TRY(shell->open_sockets());
  return shell;
}

Result<void> Shell::open_directories() {
  if (!config_.run_dir.empty()) {
    if (config_.run_dir.size() > 80)
      return fail(Errc::bad_request, "{} is too long for a run directory: at most 80 bytes", config_.run_dir);
    // Users to whom a loan is given pass through; each socket has its own mode.
    run_lock_ = TRY(own_directory(config_.run_dir, 0711));
    // What a crash left: sockets nobody serves. Nobody else may be here, the directory is ours.
    std::error_code ignored;
    std::filesystem::remove_all(loans_directory(), ignored);
  }
  if (config_.state_dir.empty()) return {};
  state_lock_ = TRY(own_directory(config_.state_dir));
  state_file_.emplace(
      io_, config_.state_dir + "/state.json", [this] { return node_->state(); },
      [this](const Error& error) {
        if (config_.log) config_.log(3, "the state could not be saved: " + to_string(error));
      });
  return {};
}

Result<core::Intent> Shell::read_state() const {
  if (config_.state_dir.empty()) return core::Intent{};
  const auto path = config_.state_dir + "/state.json";
  const auto text = TRY(read_file(path));
  if (!text) return core::Intent{};
  auto intent = core::parse_intent(*text, config_.node);
  if (!intent)
    return fail(Errc::bad_request, "{} is damaged: {}; move it away to start anew", path, intent.error().context);
  return intent;
}

Result<void> Shell::open_sockets() {
  TRY(listen_for_peers());
  if (config_.run_dir.empty()) return {};
  fabric_ = TRY(fabric::LocalListener::listen(
      io_, config_.run_dir + "/fabric.sock", [this](fabric::Ticket ticket, fabric::Socket socket) {
        const core::LoanId loan{ticket.device, ticket.epoch};
        const auto device = devices_.find(ticket.device);
        if (!stopping_ && device != devices_.end() && node_->admits(loan, ticket.nonce))
          device->second->attach(loan, node_->is_shared(loan), serve_on(std::move(socket), counters_));
      }));
  const auto path = config_.run_dir + "/smartiod.sock";
  ::unlink(path.c_str());
  error_code error;
  open_close_on_exec(controls_, asio::local::stream_protocol(), error);
  if (!error) controls_.bind(asio::local::stream_protocol::endpoint(path), error);
  if (!error && ::chmod(path.c_str(), 0600) != 0) return fail_errno(errno, "chmod " + path);
  if (!error) controls_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail_errno(error.value(), "listen on " + path);
  return {};
}

Shell::~Shell() {
  if (config_.run_dir.empty() || !run_lock_) return;
  ::unlink((config_.run_dir + "/smartiod.sock").c_str());
  std::error_code ignored;
  std::filesystem::remove(loans_directory(), ignored);
}

void Shell::run() {
  watch_host();
  handle(core::Started{});
  if (peers_.is_open()) accepting_peers_.start();
  if (controls_.is_open()) accepting_controls_.start();
  const auto work = asio::make_work_guard(io_);
  io_.run();
}

void Shell::stop() {
  asio::post(io_, [this] {
    if (std::exchange(leaving_, true)) return stop_now();
    handle(core::Stopping{});
    if (stopping_) return;
    stop_timer_.expires_after(stop_patience);
    stop_timer_.async_wait([this](error_code error) {
      if (!error) stop_now();
    });
  });
}

void Shell::perform(core::Idle&) { stop_now(); }

/// Closing a device makes its server, or the kernel, stop DMA and reset it; borrowers see the connection end.
void Shell::stop_now() {
  if (std::exchange(stopping_, true)) return;
  stop_timer_.cancel();
  bridge_timer_.cancel();
  error_code ignored;
  peers_.close(ignored);
  controls_.close(ignored);
  fabric_.reset();
  for (const auto& [id, loan] : std::exchange(loans_, {})) loan->abandon();
  uevents_.reset();
  // Stops once the last device is closed, one that is being opened or closed included, then the bridges, and all are
  // back with their drivers.
  const std::shared_ptr<void> bridges_closed(nullptr, [this](void*) {
    host_->give_back_all([this](const std::vector<Error>& failures) {
      for (const auto& error : failures)
        if (config_.log) config_.log(3, "a device did not go back to its driver: " + to_string(error));
      asio::post(io_, [this] { answer_all(); });
    });
  });
  const std::shared_ptr<void> finished(nullptr, [this, bridges_closed](void*) {
    while (!bridges_.empty()) close_bridge(bridges_.extract(bridges_.begin()), [bridges_closed] {});
  });
  host_in_use_->last = [finished] {};
  host_in_use_.reset();
  for (const auto& [id, device] : std::exchange(devices_, {})) device->close([finished] {});
  for (const auto& [link, stream] : std::exchange(links_, {})) stream->close();
  timers_.clear();
}

/// The last thing: what was done is told as soon as it is on the disk, what was not is refused.
void Shell::answer_all() {
  if (state_file_) state_file_->finish();
  for (auto& [request, done] : std::exchange(requests_, {})) done(fail(Errc::peer_down, "the node is stopping"), "");
  const std::shared_ptr<void> told(nullptr, [this](void*) { io_.stop(); });
  for (const auto& [control, stream] : std::exchange(control_streams_, {})) stream->finish(told);
}

void Shell::handle(core::Event event) {
  if (stopping_) return;
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

void Shell::command(core::ControlId from, std::string name, core::Json arguments, Done done) {
  asio::post(io_,
             [this, from, name = std::move(name), arguments = std::move(arguments), done = std::move(done)]() mutable {
               if (stopping_) return done(fail(Errc::peer_down, "the node is stopping"), "");
               if (const auto complete = complete_addresses(name, arguments); !complete)
                 return done(std::unexpected(complete.error()), "");
               const auto request = next_request_++;
               requests_.emplace(request, std::move(done));
               handle(core::Command{request, from, std::move(name), std::move(arguments)});
             });
}

core::ControlId Shell::new_control() { return next_control_++; }

void Shell::control_closed(core::ControlId control) {
  asio::post(io_, [this, control] { handle(core::ControlClosed{control}); });
}

void Shell::watch(Watcher watcher) {
  asio::post(io_, [this, watcher = std::move(watcher)]() mutable { watchers_.push_back(std::move(watcher)); });
}

/// What a command changed is on the disk when it is answered.
void Shell::perform(core::Reply& effect) {
  if (!state_file_) return answer(effect);
  state_file_->when_saved([this, reply = std::move(effect)]() mutable { answer(reply); });
}

void Shell::answer(core::Reply& reply) {
  auto found = requests_.extract(reply.request);
  if (!found.empty()) found.mapped()(std::move(reply.result), std::move(reply.note));
}

void Shell::perform(core::Emit& effect) {
  const auto text = effect.event.dump(-1, ' ', false, core::Json::error_handler_t::replace);
  std::erase_if(watchers_, [&text](const Watcher& watcher) { return !watcher(text); });
}

void Shell::perform(core::Save& effect) {
  if (state_file_) state_file_->save(effect.line);
}

void Shell::perform(core::Arm& effect) {
  auto& alarm = timers_.try_emplace(effect.timer, Alarm{asio::steady_timer(io_), 0}).first->second;
  alarm.generation = next_generation_++;
  alarm.timer.expires_after(effect.after);
  alarm.timer.async_wait([this, key = effect.timer, generation = alarm.generation](error_code error) {
    const auto armed = timers_.find(key);
    if (error || armed == timers_.end() || armed->second.generation != generation) return;
    const auto late = std::chrono::steady_clock::now() - armed->second.timer.expiry();
    timers_.erase(armed);
    handle(core::TimerFired{key, std::chrono::duration_cast<std::chrono::milliseconds>(late)});
  });
}

void Shell::perform(core::Disarm& effect) { timers_.erase(effect.timer); }

void Shell::perform(core::Log& effect) {
  if (config_.log) config_.log(effect.level, effect.text);
}

void Shell::warn(const std::string& text) {
  if (config_.log) config_.log(4, text);
}

void Shell::perform(core::EndLoan& effect) {
  const auto device = devices_.find(effect.loan.device);
  if (device != devices_.end()) return device->second->end(effect.loan, effect.last);
  handle(core::LoanEnded{effect.loan, Error{make_error_code(Errc::wrong_state), "the device is not open"}});
}

void Shell::perform(core::ClientsReleased& effect) {
  if (const auto device = devices_.find(effect.loan.device); device != devices_.end())
    device->second->clients_released(effect.loan);
}

void Shell::perform(core::OpenLoan& effect) {
  LoanSocket::Options options{.loan = effect.loan,
                              .directory = loans_directory() + "/" + to_string(effect.loan.device),
                              .lender = effect.fabric == core::Fabric::ntb
                                            ? remote_source(effect.loan, effect.link, effect.window)
                                            : local_source(effect),
                              .owner = effect.owner,
                              .trusted_group = config_.trusted_group,
                              .is_program = [this](::pid_t pid) { return is_program(pid); },
                              .shared = effect.shared};
  loans_[effect.loan] = LoanSocket::open(io_, std::move(options), [this](core::Event event) {
    if (const auto* closed = std::get_if<core::LoanClosed>(&event)) loans_.erase(closed->loan);
    handle(std::move(event));
  });
}

void Shell::perform(core::CloseLoan& effect) {
  const auto loan = loans_.find(effect.loan);
  if (loan != loans_.end()) return loan->second->close(effect.orderly);
  handle(core::LoanClosed{effect.loan});
}

} // namespace smartio
