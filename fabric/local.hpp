// The local fabric: both nodes are on one host and meet on a socket of the lender, so that descriptors of registers,
// memory and eventfds are simply passed. The socket is an abstract one, named by a token that the lender tells its
// peers: no peer ever names a path that is opened here. A borrower opens one connection for each client of a loan: it
// first proves the nonce the lender gave it over the peer connection, then the connection speaks vfio-user. Nothing of
// ours stays in the data path.
#pragma once

#include "user/client.hpp"

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <smartio/error.hpp>
#include <smartio/types.hpp>
#include <string>

namespace smartio::fabric {

using Socket = vfio::user::Socket;

/// What a borrower says first: which loan it is for, and the lender's nonce (64 hex digits) as the proof that it is the
/// borrower.
struct Ticket {
  std::string nonce;
  DeviceId device;
  std::uint64_t epoch;
};

/// The lender's end. Single-threaded: everything on the event loop.
class LocalListener {
public:
  using Arrived = std::function<void(Ticket, Socket)>;

  /// Listens at `token` (32 hex digits), in this network namespace. The token keeps nobody out, /proc/net/unix shows
  /// it: whoever connects and is neither root nor this process's user (SO_PEERCRED, unix(7)) is closed at once.
  /// `arrived` gets each connection whose ticket came whole within 2 s; whether the ticket is any good is the caller's
  /// to decide.
  static Result<std::unique_ptr<LocalListener>> listen(boost::asio::io_context& io, const std::string& token,
                                                       Arrived arrived);
  ~LocalListener();

private:
  struct State;
  explicit LocalListener(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

/// The borrower's end: connects to the lender's socket, shows the ticket and opens the device. `opened` is called once,
/// later. Errors as vfio::user::Client::connect_abstract's.
void connect_local(boost::asio::io_context& io, const std::string& token, const Ticket& ticket,
                   std::chrono::milliseconds timeout, vfio::user::Client::Opened opened);

} // namespace smartio::fabric
