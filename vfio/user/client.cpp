// A client's life: connecting, VERSION, deadlines, the end.
#include "client_state.hpp"

#include "result.hpp"

#include <boost/asio/post.hpp>
#include <cerrno>
#include <sys/socket.h>
#include <sys/un.h>
#include <utility>

namespace smartio::vfio::user {

using boost::asio::local::stream_protocol;
using boost::system::error_code;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint32_t least_transfer = 4096; ///< of a server worth talking to
constexpr std::chrono::milliseconds backlog_pause{5};

error_code last_error() { return {errno, boost::system::system_category()}; }

/// One attempt to connect after the other, while the server's backlog is full.
struct Connecting : std::enable_shared_from_this<Connecting> {
  Connecting(boost::asio::io_context& io, const std::string& to, std::chrono::milliseconds time, Client::Opened then,
             std::string say)
      : socket(io), timer(io), path(to), first(std::move(say)), timeout(time), deadline(Clock::now() + time),
        opened(std::move(then)) {}

  void attempt();
  void connected(error_code error);
  error_code connect_now();
  error_code introduce();
  void again();
  bool is_abstract() const { return path.front() == '\0'; }
  std::string shown() const { return is_abstract() ? "@" + path.substr(1) : path; } // as /proc/net/unix has it

  Socket socket;
  boost::asio::steady_timer timer;
  std::string path, first;
  std::chrono::milliseconds timeout;
  Clock::time_point deadline;
  Client::Opened opened;
};

void Connecting::attempt() {
  boost::asio::post(timer.get_executor(), [self = shared_from_this()] { self->connected(self->connect_now()); });
}

/// By hand: Asio takes a full backlog for a connection under way, and then for one that is made.
error_code Connecting::connect_now() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return last_error();
  error_code error;
  socket.assign(stream_protocol(), fd.get(), error);
  if (error) return error;
  const stream_protocol::endpoint to(path);
  if (::connect(fd.release(), to.data(), static_cast<socklen_t>(to.size())) != 0) return last_error();
  if (is_abstract() && !is_ours(socket.native_handle()))
    return make_error_code(boost::system::errc::operation_not_permitted);
  return introduce();
}

void Connecting::connected(error_code error) {
  if (!error) return Client::start(std::move(socket), timeout, std::move(opened));
  if (error == boost::asio::error::try_again) return again();
  if (error == boost::system::errc::permission_denied)
    return opened(fail(Errc::not_permitted, "Not permitted to connect to {}.", shown()));
  if (error == boost::system::errc::operation_not_permitted)
    return opened(fail(Errc::not_permitted, "What listens at {} belongs to another user.", shown()));
  opened(fail(Errc::peer_down, "No vfio-user server at {}: {}.", shown(), error.message()));
}

/// A socket that nobody has written to has room for a few bytes.
error_code Connecting::introduce() {
  if (first.empty()) return {};
  const auto sent = ::send(socket.native_handle(), first.data(), first.size(), MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(first.size()) ? error_code() : last_error();
}

void Connecting::again() {
  if (Clock::now() >= deadline)
    return opened(fail(Errc::timed_out, "The server at {} accepts no connection.", shown()));
  error_code ignored;
  socket.close(ignored);
  timer.expires_after(backlog_pause);
  timer.async_wait([self = shared_from_this()](error_code error) {
    if (!error) self->attempt();
  });
}

} // namespace

void Client::connect(boost::asio::io_context& io, const std::string& path, std::chrono::milliseconds timeout,
                     Opened opened) {
  const auto connecting = std::make_shared<Connecting>(io, path, timeout, std::move(opened), "");
  if (path.empty() || path.size() >= sizeof sockaddr_un::sun_path || path.find('\0') != std::string::npos) {
    boost::asio::post(io, [connecting] {
      connecting->opened(fail(Errc::bad_request, "\"{}\" cannot be the path of a socket.", connecting->path));
    });
    return;
  }
  connecting->attempt();
}

void Client::connect_abstract(boost::asio::io_context& io, const std::string& name, std::chrono::milliseconds timeout,
                              Opened opened, std::string first) {
  std::make_shared<Connecting>(io, '\0' + name, timeout, std::move(opened), std::move(first))->attempt();
}

void Client::start(Socket socket, std::chrono::milliseconds timeout, Opened opened) {
  auto executor = socket.get_executor();
  std::shared_ptr<Client> client(new Client(std::make_unique<State>(std::move(executor), timeout)));
  client->state_->greet(client, std::move(socket), std::move(opened));
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Client::~Client() { state_->lose(ECANCELED, false); }

void Client::close() {
  const auto self = shared_from_this();
  state_->lose(ECANCELED, false);
}

void Client::on_lost(std::move_only_function<void()> lost) {
  if (!state_->lost) {
    state_->when_lost = std::move(lost);
    return;
  }
  boost::asio::post(state_->timer.get_executor(), std::move(lost));
}

const std::string& Client::why_lost() const { return state_->why; }

void Client::serve_dma(DmaRead read, DmaWrite write) {
  state_->dma_read = std::move(read);
  state_->dma_write = std::move(write);
}

void Client::serve_mapped_memory() {
  const auto memory = std::make_shared<MappedMemory>();
  state_->memory = memory;
  serve_dma([memory](Iova iova, std::uint32_t count) { return memory->read(iova, count); },
            [memory](Iova iova, std::span<const std::byte> data) { return memory->write(iova, data); });
}

Client::State::State(boost::asio::any_io_executor executor, std::chrono::milliseconds time)
    : timeout(time), timer(std::move(executor)) {}

void Client::State::greet(const std::shared_ptr<Client>& client, Socket socket, Opened when_opened) {
  owner = client;
  opened = std::move(when_opened);
  stream = std::make_shared<Stream>(
      std::move(socket), StreamLimits{.output = 64 * 1024 * 1024, .stall = timeout, .files = Unknown::passed},
      [weak = owner](Message message) {
        if (const auto kept = weak.lock()) kept->state_->received(std::move(message));
      },
      [weak = owner](End end) {
        if (const auto kept = weak.lock()) kept->state_->ended(end);
      });
  stream->start();
  stream->send({.id = 0, .command = Command::version, .size = 0, .flags = type_command, .error = 0},
               encode_version(own_version));
  timer.expires_after(timeout);
  // This is what keeps the client until it is opened; it goes with the event loop.
  timer.async_wait([kept = client](error_code error) {
    if (!error && kept->state_->phase == Phase::greeting)
      kept->state_->refuse(fail(Errc::timed_out, "The vfio-user server does not answer."));
  });
}

/// The reply to VERSION, or nothing that belongs here.
void Client::State::greeted(const Message& message) {
  const auto& header = message.header;
  if (header.command != Command::version || (header.flags & type_mask) != type_reply || !message.fds.empty())
    return refuse(fail(Errc::bad_request, "The server does not speak vfio-user."));
  if ((header.flags & flag_error) != 0) {
    if (header.error == EBUSY) return refuse(fail(Errc::busy, "The device has a client already."));
    return refuse(fail(Errc::bad_request, "The vfio-user server refused this client with errno {}.", header.error));
  }
  const auto version = decode_version(message.payload);
  if (!version || version->major != own_version.major || version->minor > own_version.minor)
    return refuse(fail(Errc::bad_request, "The vfio-user server's version is malformed or not supported."));
  if (version->max_data_xfer_size < least_transfer)
    return refuse(fail(Errc::bad_request, "The vfio-user server moves {} bytes at a time, which is too little.",
                       version->max_data_xfer_size));
  server = *version;
  phase = Phase::ready;
  timer.cancel();
  std::exchange(opened, nullptr)(owner.lock());
}

void Client::State::refuse(std::unexpected<Error> error) {
  phase = Phase::over;
  lost = true;
  stream->close();
  timer.cancel();
  std::exchange(opened, nullptr)(std::move(error));
}

void Client::State::ended(End end) {
  if (phase != Phase::greeting)
    return lose_device(ENODEV, end == End::closed      ? "closed the connection"
                               : end == End::malformed ? "sent what is no message"
                                                       : "does not read what it is sent, or stopped within a message");
  if (end == End::closed) return refuse(fail(Errc::peer_down, "The server closed the connection."));
  if (end == End::stalled) return refuse(fail(Errc::timed_out, "The vfio-user server does not answer."));
  refuse(fail(Errc::bad_request, "The server does not speak vfio-user."));
}

void Client::State::lose_device(int error, std::string reason) {
  if (phase != Phase::over) why = std::move(reason);
  lose(error, true);
}

void Client::State::malformed(const char* what, Command command) {
  lose_device(ENODEV, fmt::format("gave {} to {}", what, name_of(command)));
}

/// Ends it: everything under way completes with `error`; later requests too, or with ENODEV when the device was lost.
void Client::State::lose(int error, bool notify) {
  if (std::exchange(phase, Phase::over) == Phase::over) return;
  const auto kept = owner.lock();
  lost_error = notify ? ENODEV : error;
  lost = notify;
  if (stream) stream->close();
  timer.cancel();
  if (memory) memory->clear();
  calls.clear([error](Call call) { call.done(std::unexpected(error)); });
  if (notify && when_lost) std::exchange(when_lost, nullptr)();
}

/// One timer, for the oldest call. It is not set again for each reply, but looks when it is due.
void Client::State::watch() {
  if (phase != Phase::ready || calls.empty() || std::exchange(timer_armed, true)) return;
  timer.expires_at(calls.oldest()->deadline);
  timer.async_wait([weak = owner](error_code error) {
    const auto kept = weak.lock();
    if (!kept) return;
    kept->state_->timer_armed = false;
    if (!error) kept->state_->due();
  });
}

void Client::State::due() {
  if (!calls.empty() && calls.oldest()->deadline <= Clock::now())
    return lose_device(ETIMEDOUT,
                       fmt::format("gave no answer to {} in {} ms", name_of(calls.oldest()->command), timeout.count()));
  watch();
}

} // namespace smartio::vfio::user
