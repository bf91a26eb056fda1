// Listening for clients.
#include "server.hpp"

#include "listen.hpp"
#include "result.hpp"

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <utility>
#include <vector>

namespace smartio::vfio::user {

using boost::asio::local::stream_protocol;
using boost::system::error_code;

namespace {
constexpr std::size_t most_connections = 128;          ///< greeted or not; one more is closed at once
constexpr std::chrono::milliseconds accept_pause{100}; ///< when there are no descriptors left
} // namespace

struct Server::State : std::enable_shared_from_this<State> {
  struct Entry {
    std::shared_ptr<Connection> connection;
    bool accepted = false;
  };

  State(ListeningPath listening, stream_protocol::acceptor listener, Accept chooser, Closed at_end)
      : path(std::move(listening)), acceptor(std::move(listener)), pause(acceptor.get_executor()),
        accept(std::move(chooser)), closed(std::move(at_end)) {}

  void wait();
  void pause_then_wait();
  void add(Socket socket);
  std::expected<std::shared_ptr<Device>, int> greeted(const std::shared_ptr<Entry>& entry, const ::ucred& client);
  void gone(const std::shared_ptr<Entry>& entry);

  ListeningPath path;
  stream_protocol::acceptor acceptor;
  boost::asio::steady_timer pause;
  Accept accept;
  Closed closed;
  Counters counters;
  std::vector<std::shared_ptr<Entry>> entries; ///< oldest first
};

Result<std::unique_ptr<Server>> Server::listen(boost::asio::io_context& io, const std::string& path, Accept accept,
                                               Closed closed) {
  auto listening = TRY(ListeningPath::listen(path));
  stream_protocol::acceptor acceptor(io);
  error_code error;
  auto socket = listening.take_socket();
  acceptor.assign(stream_protocol(), socket.get(), error);
  if (error) return fail_errno(error.value(), fmt::format("watch {}", path));
  socket.release();
  auto state = std::make_shared<State>(std::move(listening), std::move(acceptor), std::move(accept), std::move(closed));
  state->wait();
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::shared_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  error_code ignored;
  state_->acceptor.close(ignored);
  state_->pause.cancel();
  for (const auto& entry : std::exchange(state_->entries, {})) entry->connection->close();
}

const Counters& Server::counters() const noexcept { return state_->counters; }

std::shared_ptr<Connection> Server::connection() const {
  const auto accepted = [](const auto& entry) { return entry->accepted; };
  const auto newest = std::find_if(state_->entries.rbegin(), state_->entries.rend(), accepted);
  return newest == state_->entries.rend() ? nullptr : (*newest)->connection;
}

void Server::State::wait() {
  acceptor.async_accept([weak = weak_from_this()](error_code error, Socket socket) {
    const auto self = weak.lock();
    if (!self || !self->acceptor.is_open()) return;
    if (error == boost::asio::error::no_descriptors || error == boost::system::errc::too_many_files_open_in_system ||
        error == boost::asio::error::no_memory)
      return self->pause_then_wait();
    if (!error) self->add(std::move(socket));
    self->wait();
  });
}

void Server::State::pause_then_wait() {
  pause.expires_after(accept_pause);
  pause.async_wait([weak = weak_from_this()](error_code error) {
    if (const auto self = weak.lock(); self && !error && self->acceptor.is_open()) self->wait();
  });
}

void Server::State::add(Socket socket) {
  if (entries.size() >= most_connections) return;
  const auto entry = std::make_shared<Entry>();
  entries.push_back(entry);
  entry->connection =
      Connection::start(std::move(socket), Connection::Accept([weak = weak_from_this(), entry](const ::ucred& client) {
                          const auto self = weak.lock();
                          return self ? self->greeted(entry, client) : std::unexpected(ENODEV);
                        }),
                        counters, [weak = weak_from_this(), entry] {
                          if (const auto self = weak.lock()) self->gone(entry);
                        });
}

/// A device whose client has died is free, even when this client's VERSION was seen before that one's end.
std::expected<std::shared_ptr<Device>, int> Server::State::greeted(const std::shared_ptr<Entry>& entry,
                                                                   const ::ucred& client) {
  const auto others = entries;
  for (const auto& other : others)
    if (other->accepted) other->connection->reap();
  auto chosen = accept(client);
  entry->accepted = chosen.has_value();
  return chosen;
}

void Server::State::gone(const std::shared_ptr<Entry>& entry) {
  std::erase(entries, entry);
  if (entry->accepted && closed) closed();
}

} // namespace smartio::vfio::user
