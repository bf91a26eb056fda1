#include "local.hpp"

#include "result.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstring>
#include <deque>
#include <fcntl.h>

namespace smartio::fabric {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr std::chrono::seconds ticket_timeout{2};
constexpr std::chrono::milliseconds accept_pause{100}; ///< when there are no descriptors left
constexpr std::size_t most_waiting = 64; ///< for a ticket, which comes at once: the oldest gives up its place
constexpr std::size_t nonce_size = 64;
constexpr std::size_t ticket_size = nonce_size + 4 + 8; // nonce, device, epoch; both ends are on one host
using Bytes = std::array<char, ticket_size>;

Bytes encode(const Ticket& ticket) {
  Bytes bytes{};
  std::memcpy(bytes.data(), ticket.nonce.data(), std::min(ticket.nonce.size(), nonce_size));
  std::memcpy(bytes.data() + nonce_size, &ticket.device, sizeof ticket.device);
  std::memcpy(bytes.data() + nonce_size + 4, &ticket.epoch, sizeof ticket.epoch);
  return bytes;
}

Ticket decode(const Bytes& bytes) {
  Ticket ticket{std::string(bytes.data(), nonce_size), {}, 0};
  std::memcpy(&ticket.device, bytes.data() + nonce_size, sizeof ticket.device);
  std::memcpy(&ticket.epoch, bytes.data() + nonce_size + 4, sizeof ticket.epoch);
  return ticket;
}

std::string name_of(const std::string& token) { return "smartio-" + token; }

template <class Socket> void close_on_exec(Socket& socket) { ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC); }

bool out_of_descriptors(error_code error) {
  return error == asio::error::no_descriptors || error == asio::error::no_memory ||
         error == boost::system::errc::too_many_files_open_in_system;
}

/// A connection whose ticket has not come yet.
struct Arrival {
  Arrival(Socket from) : socket(std::move(from)), timer(socket.get_executor()) { close_on_exec(socket); }
  Socket socket;
  asio::steady_timer timer;
  Bytes bytes{};
};

} // namespace

struct LocalListener::State : std::enable_shared_from_this<State> {
  State(asio::io_context& io, Arrived to) : acceptor(io), pause(io), arrived(std::move(to)) {}

  void accept() {
    acceptor.async_accept([weak = weak_from_this()](error_code error, Socket socket) {
      const auto self = weak.lock();
      if (!self || !self->acceptor.is_open()) return;
      if (out_of_descriptors(error)) return self->pause_then_accept();
      if (!error && is_ours(socket.native_handle())) self->read_ticket(std::move(socket));
      self->accept();
    });
  }

  void pause_then_accept() {
    pause.expires_after(accept_pause);
    pause.async_wait([weak = weak_from_this()](error_code error) {
      if (const auto self = weak.lock(); self && !error && self->acceptor.is_open()) self->accept();
    });
  }

  void read_ticket(Socket socket) {
    while (waiting.size() >= most_waiting) {
      error_code not_open;
      if (const auto oldest = waiting.front().lock()) oldest->socket.close(not_open);
      waiting.pop_front();
    }
    const auto arrival = std::make_shared<Arrival>(std::move(socket));
    waiting.push_back(arrival);
    arrival->timer.expires_after(ticket_timeout);
    arrival->timer.async_wait([arrival](error_code error) {
      error_code ignored;
      if (!error) arrival->socket.close(ignored);
    });
    asio::async_read(arrival->socket, asio::buffer(arrival->bytes),
                     [arrival, weak = weak_from_this()](error_code error, std::size_t) {
                       arrival->timer.cancel();
                       const auto self = weak.lock();
                       if (self && !error) self->arrived(decode(arrival->bytes), std::move(arrival->socket));
                     });
  }

  stream_protocol::acceptor acceptor;
  asio::steady_timer pause;
  Arrived arrived;
  std::deque<std::weak_ptr<Arrival>> waiting; ///< for their tickets, or done with that; the oldest first
};

Result<std::unique_ptr<LocalListener>> LocalListener::listen(asio::io_context& io, const std::string& token,
                                                             Arrived arrived) {
  auto state = std::make_shared<State>(io, std::move(arrived));
  error_code error;
  state->acceptor.open(stream_protocol(), error);
  if (!error) close_on_exec(state->acceptor);
  if (!error) state->acceptor.bind(stream_protocol::endpoint('\0' + name_of(token)), error);
  if (!error) state->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail_errno(error.value(), "listen on the local fabric's socket");
  state->accept();
  return std::unique_ptr<LocalListener>(new LocalListener(std::move(state)));
}

LocalListener::~LocalListener() {
  error_code ignored;
  state_->acceptor.close(ignored);
  state_->pause.cancel();
}

void connect_local(asio::io_context& io, const std::string& token, const Ticket& ticket,
                   std::chrono::milliseconds timeout, vfio::user::Client::Opened opened) {
  const auto bytes = encode(ticket);
  vfio::user::Client::connect_abstract(io, name_of(token), timeout, std::move(opened),
                                       std::string(bytes.data(), bytes.size()));
}

} // namespace smartio::fabric
