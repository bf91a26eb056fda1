// A device behind a vfio-user socket, driven by this process: the client end of the protocol (vfio-user specification
// 0.x).
#pragma once

#include "../device.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <memory>
#include <smartio/error.hpp>
#include <span>
#include <string>

namespace smartio::vfio::user {

using Socket = boost::asio::local::stream_protocol::socket;

class Client final : public Device, public std::enable_shared_from_this<Client> {
public:
  using Opened = std::move_only_function<void(Result<std::shared_ptr<Client>>)>;

  /// Connects to the server at `path` and agrees on a version; `opened` is called once, later, within `timeout`, which
  /// also bounds every reply afterwards (what has none then ends with ETIMEDOUT, and the device is lost). Errors:
  /// Errc::peer_down (no server, not a socket), Errc::timed_out, Errc::busy (the server has a client already),
  /// Errc::bad_request (not vfio-user).
  static void connect(boost::asio::io_context& io, const std::string& path, std::chrono::milliseconds timeout,
                      Opened opened);
  /// The same at the abstract socket `name` (unix(7)), where anybody may listen: Errc::not_permitted unless that is
  /// root or this process's user. `first`: at most a few hundred bytes that the server wants to see first.
  static void connect_abstract(boost::asio::io_context& io, const std::string& name, std::chrono::milliseconds timeout,
                               Opened opened, std::string first);
  /// The same on a connected socket.
  static void start(Socket socket, std::chrono::milliseconds timeout, Opened opened);

  void submit(Request request, Completion done) override;
  void on_lost(std::move_only_function<void()> lost) override;

  /// What the server did that lost the device: "closed the connection", "gave a malformed answer to GET_INFO". Empty
  /// while it is not lost.
  const std::string& why_lost() const;

  /// Writes without waiting for it to be done, or hearing whether it was; in order with everything submitted. EINVAL,
  /// ENODEV when the device is lost, ENOBUFS when the server does not keep up; otherwise 0.
  int post(const RegionWrite& write);

  /// Serves the device's messages that read and write this side's memory (for windows without a descriptor); without
  /// this they are answered with EFAULT. `read` gives `count` bytes or an errno, `write` 0 or an errno.
  using DmaRead = std::move_only_function<std::expected<std::vector<std::byte>, int>(Iova, std::uint32_t count)>;
  using DmaWrite = std::move_only_function<int(Iova, std::span<const std::byte>)>;
  void serve_dma(DmaRead read, DmaWrite write);

  /// Serves them from the memory that is mapped for the device by descriptor, from the windows submitted after this on:
  /// within them, with their rights (MappedMemory).
  void serve_mapped_memory();

  /// Closes the connection; everything under way completes with ECANCELED, `lost` is not called.
  void close();

  ~Client() override;

private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

} // namespace smartio::vfio::user
