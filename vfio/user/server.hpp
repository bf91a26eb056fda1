// Serving a device on a vfio-user socket: the server end of the protocol (vfio-user specification 0.x, and what
// QEMU 11.1, Cloud Hypervisor and SPDK send).
#pragma once

#include "../device.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <memory>
#include <smartio/error.hpp>
#include <string>
#include <sys/socket.h>

namespace smartio::vfio::user {

using Socket = boost::asio::local::stream_protocol::socket;

/// What went over one server's sockets since it started.
struct Counters {
  std::uint64_t messages = 0;  ///< commands received
  std::uint64_t errors = 0;    ///< commands answered with an error
  std::uint64_t malformed = 0; ///< connections closed because of what the client sent
};

/// One client of a device. Requests are handed to the device in order and answered in order; the first fatal error
/// (malformed frame, lost stream) closes the connection, which drops nothing of the device: `closed` decides that.
/// What the device does not complete within 4.5 s is answered for it (QEMU waits 5 s): a read with ones, all else with
/// ETIMEDOUT, and a window that it maps later is unmapped again; a completion dropped without a call counts as EIO. The
/// device is asked about its regions and interrupts once, when the client comes; requests that lie outside of them
/// never reach it. Eventfds of the client keep their flags, and never block whoever signals them by signal_eventfd.
class Connection final : public std::enable_shared_from_this<Connection> {
public:
  /// Gives the device for a client, or the errno that its VERSION is refused with.
  using Accept = std::move_only_function<std::expected<std::shared_ptr<Device>, int>(const ::ucred& client)>;

  /// Serves `device` on a connected socket until either end closes; then `closed` is called once, later, on the event
  /// loop.
  static std::shared_ptr<Connection> start(Socket socket, std::shared_ptr<Device> device, Counters& counters,
                                           std::move_only_function<void()> closed);
  /// The same for a device that is chosen when the client's VERSION comes, which must be within 5 s. `counters` must
  /// live until the connection is closed.
  static std::shared_ptr<Connection> start(Socket socket, Accept accept, Counters& counters,
                                           std::move_only_function<void()> closed);

  /// Asks the client to read or write its memory (DMA_READ, DMA_WRITE), for windows without a descriptor. At most 64
  /// KiB a request (otherwise EINVAL); completes with Data or Done, with the client's errno, with ETIMEDOUT after 5 s,
  /// or with ENODEV once the connection is closed. The reply is awaited without holding up the client's own commands.
  void dma_read(Iova iova, std::uint32_t count, Completion done);
  void dma_write(Iova iova, std::vector<std::byte> data, Completion done);

  /// The client gets no descriptor of registers any more, and none is kept for it: what it has stays its own.
  void withdraw_registers();

  void close();              ///< `closed` is not called
  ::ucred peer() const;      ///< who connected (SO_PEERCRED)
  void kill_process() const; ///< of who connected
  ~Connection();

private:
  friend class Server;
  struct State;
  void reap(); ///< ends the connection now, `closed` called, when the client has gone
  explicit Connection(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Listens on a socket and makes a connection for each client.
class Server final {
public:
  /// Gives the device for a new client, or the errno that its VERSION is refused with (EBUSY: one client at a time).
  /// Called when the VERSION comes; a client that has gone by then has been closed before.
  using Accept = Connection::Accept;
  using Closed = std::move_only_function<void()>; ///< an accepted client has gone

  /// Listens on `path`, mode 0600. A stale socket there is replaced; anything else (a live server, a file) is an error
  /// that says so: Errc::busy, Errc::bad_request, or the errno. Removes the socket at the end.
  static Result<std::unique_ptr<Server>> listen(boost::asio::io_context& io, const std::string& path, Accept accept,
                                                Closed closed);
  const Counters& counters() const noexcept;
  std::shared_ptr<Connection> connection() const; ///< of the newest client, or null
  ~Server();

private:
  struct State;
  explicit Server(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

} // namespace smartio::vfio::user
