#include "local.hpp"

#include "result.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio::fabric {

namespace asio = boost::asio;
using asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr std::chrono::seconds ticket_timeout{2};
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

/// A connection whose ticket has not come yet.
struct Arrival {
  Arrival(Socket from) : socket(std::move(from)), timer(socket.get_executor()) {}
  Socket socket;
  asio::steady_timer timer;
  Bytes bytes{};
};

} // namespace

struct LocalListener::State : std::enable_shared_from_this<State> {
  State(asio::io_context& io, std::string at, Arrived to) : acceptor(io), path(std::move(at)), arrived(std::move(to)) {}

  void accept() {
    acceptor.async_accept([weak = weak_from_this()](error_code error, Socket socket) {
      const auto self = weak.lock();
      if (!self || !self->acceptor.is_open()) return;
      if (!error) self->read_ticket(std::move(socket));
      self->accept();
    });
  }

  void read_ticket(Socket socket) {
    const auto arrival = std::make_shared<Arrival>(std::move(socket));
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
  std::string path;
  Arrived arrived;
};

Result<std::unique_ptr<LocalListener>> LocalListener::listen(asio::io_context& io, const std::string& path,
                                                             Arrived arrived) {
  if (path.size() > 107) return fail(Errc::bad_request, "{} is too long for a socket: at most 107 bytes", path);
  auto state = std::make_shared<State>(io, path, std::move(arrived));
  ::unlink(path.c_str());
  error_code error;
  state->acceptor.open(stream_protocol(), error);
  if (!error) state->acceptor.bind(stream_protocol::endpoint(path), error);
  if (!error && ::chmod(path.c_str(), 0600) != 0) return fail_errno(errno, fmt::format("chmod {}", path));
  if (!error) state->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail_errno(error.value(), fmt::format("listen on {}", path));
  state->accept();
  return std::unique_ptr<LocalListener>(new LocalListener(std::move(state)));
}

LocalListener::~LocalListener() {
  error_code ignored;
  state_->acceptor.close(ignored);
  ::unlink(state_->path.c_str());
}

void connect_local(asio::io_context& io, const std::string& path, const Ticket& ticket,
                   std::chrono::milliseconds timeout, vfio::user::Client::Opened opened) {
  const auto failed = [&io, &opened](const std::string& why) {
    asio::post(io, [done = std::move(opened), why]() mutable { done(fail(Errc::peer_down, "{}", why)); });
  };
  Socket socket(io);
  error_code error;
  if (path.size() > 107) return failed("the lender's fabric socket has no valid path");
  socket.connect(stream_protocol::endpoint(path), error);
  if (error) return failed(fmt::format("the lender's fabric socket {}: {}", path, error.message()));
  const auto bytes = encode(ticket);
  if (::send(socket.native_handle(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size()))
    return failed(fmt::format("the lender's fabric socket {} takes no data", path));
  vfio::user::Client::start(std::move(socket), timeout, std::move(opened));
}

} // namespace smartio::fabric
