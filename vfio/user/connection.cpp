// A connection's life: VERSION, what the device says of itself, the end.
#include "connection.hpp"

#include "peer_process.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

namespace smartio::vfio::user {

using boost::system::error_code;

namespace {

constexpr std::chrono::seconds greeting_time{5};
// A client that sends without reading is not read any more, before much is kept for it.
constexpr StreamLimits limits{.output_high = 1024 * 1024};

} // namespace

std::shared_ptr<Connection> Connection::start(Socket socket, std::shared_ptr<Device> device, Counters& counters,
                                              std::move_only_function<void()> closed) {
  auto accept = [device = std::move(device)](const ::ucred&) mutable { return std::move(device); };
  return start(std::move(socket), Accept(std::move(accept)), counters, std::move(closed));
}

std::shared_ptr<Connection> Connection::start(Socket socket, Accept accept, Counters& counters,
                                              std::move_only_function<void()> closed) {
  std::shared_ptr<Connection> connection(new Connection(nullptr));
  connection->state_ =
      std::make_unique<State>(*connection, std::move(socket), std::move(accept), counters, std::move(closed));
  connection->state_->start();
  return connection;
}

Connection::Connection(std::unique_ptr<State> state) : state_(std::move(state)) {}

Connection::~Connection() {
  if (state_) state_->finish(false);
}

void Connection::close() {
  state_->finish(false);
  state_->closed = nullptr;
}

void Connection::withdraw_registers() {
  state_->withdrawn = true;
  if (state_->view) state_->view = without_registers(*state_->view);
}

::ucred Connection::peer() const { return state_->peer; }
void Connection::kill_process() const {
  if (state_->phase != State::Phase::over) kill_peer(state_->handle);
}

void Connection::reap() {
  const auto self = shared_from_this();
  if (state_->phase != State::Phase::over) {
    if (!state_->stream->hung_up()) return;
    state_->stream->drain();
    state_->finish(true);
  }
  state_->report();
}

Connection::State::State(Connection& of, Socket socket, Accept chooser, Counters& counted, Closed at_end)
    : owner(of), handle(socket.native_handle()), timer(socket.get_executor()), call_timer(socket.get_executor()),
      accept(std::move(chooser)), counters(counted), closed(std::move(at_end)), peer(peer_of(socket.native_handle())) {
  stream = std::make_shared<Stream>(
      std::move(socket), limits,
      [weak = owner.weak_from_this()](Message message) {
        if (const auto self = weak.lock()) self->state_->received(std::move(message));
      },
      [weak = owner.weak_from_this()](End why) {
        if (const auto self = weak.lock()) self->state_->ended(why);
      });
}

void Connection::State::start() {
  stream->start();
  timer.expires_after(greeting_time);
  timer.async_wait([weak = owner.weak_from_this()](error_code error) {
    const auto self = weak.lock();
    if (!error && self && self->state_->phase == Phase::greeting) self->state_->finish(true);
  });
}

void Connection::State::received(Message message) {
  const auto type = message.header.flags & type_mask;
  if (type == type_reply && phase == Phase::ready) return dma_reply(message);
  if (type != type_command || (message.header.flags & flag_error) != 0) return malformed();
  ++counters.messages;
  if (phase == Phase::greeting) return greet(std::move(message));
  call(std::move(message));
}

void Connection::State::greet(Message message) {
  const auto& header = message.header;
  const auto version = decode_version(message.payload);
  const bool good = header.command == Command::version && version && version->major == own_version.major &&
                    message.fds.empty() && (header.flags & flag_no_reply) == 0;
  if (!good) {
    refuse(header, EINVAL);
    return malformed();
  }
  auto accepted = std::exchange(accept, nullptr)(peer);
  if (phase != Phase::greeting) return; // closed meanwhile
  if (!accepted) {
    refuse(header, accepted.error());
    return finish(true);
  }
  client = *version;
  device = std::move(*accepted);
  phase = Phase::loading;
  timer.cancel();
  DeviceView::load(device, [weak = owner.weak_from_this(), id = header.id](auto result) {
    if (const auto self = weak.lock()) self->state_->loaded(id, std::move(result));
  });
  if (phase == Phase::loading) stream->pause();
}

void Connection::State::refuse(const Header& header, int error) {
  ++counters.errors;
  if ((header.flags & flag_no_reply) != 0) return;
  stream->send({.id = header.id,
                .command = header.command,
                .size = 0,
                .flags = type_reply | flag_error,
                .error = static_cast<std::uint32_t>(error)});
}

void Connection::State::loaded(std::uint16_t id, std::expected<std::shared_ptr<const DeviceView>, int> result) {
  if (phase != Phase::loading) return;
  const Header header{id, Command::version, 0, type_reply, 0};
  if (!result) {
    refuse(header, result.error());
    return finish(true);
  }
  view = withdrawn ? without_registers(**result) : std::move(*result);
  phase = Phase::ready;
  auto answer = own_version;
  answer.minor = std::min(client.minor, own_version.minor);
  stream->send(header, encode_version(answer));
  stream->resume();
}

void Connection::State::ended(End why) {
  if (why == End::closed) return finish(true);
  malformed();
}

void Connection::State::malformed() {
  if (phase == Phase::over) return;
  ++counters.malformed;
  finish(true);
}

/// Nothing of the client is left behind here; what it did to the device is for `closed` to undo.
void Connection::State::finish(bool notify) {
  if (std::exchange(phase, Phase::over) == Phase::over) return;
  stream->close();
  timer.cancel();
  call_timer.cancel();
  calls.clear();
  view.reset();
  accept = nullptr;
  if (notify)
    boost::asio::post(stream->executor(), [self = owner.shared_from_this()] { self->state_->report(); });
  else
    closed = nullptr;
  auto dropped = std::move(device);
  dmas.clear([](Dma dma) {
    if (dma.done) dma.done(std::unexpected(ENODEV));
  });
}

void Connection::State::report() {
  if (closed) std::exchange(closed, nullptr)();
}

} // namespace smartio::vfio::user
