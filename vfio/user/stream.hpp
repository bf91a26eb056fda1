// vfio-user messages over a connected AF_UNIX stream, descriptors included, for either end. Knows headers and sizes,
// not what messages mean. Everything is bounded: the size of a message (checked before memory is taken for it), the
// time a started one may take, the output that the other end does not read.
#pragma once

#include "fd.hpp"
#include "user/foreign.hpp"
#include "wire.hpp"

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace smartio::vfio::user {

using Socket = boost::asio::local::stream_protocol::socket;

struct StreamLimits {
  std::uint32_t message = max_message;   ///< bytes, header included
  std::size_t output = 16 * 1024 * 1024; ///< bytes waiting to be sent; more ends the stream
  std::size_t output_high = SIZE_MAX;    ///< bytes waiting beyond which nothing more is read
  std::chrono::milliseconds stall{5000}; ///< for the rest of a started message, in either direction
  Unknown files = Unknown::refused;      ///< of other mount namespaces
};

/// One message as it came. `payload` is good until the handler returns; descriptors nobody takes are closed.
struct Message {
  Header header;
  std::span<const std::byte> payload;
  std::vector<Fd> fds;
};

/// Why a stream ended by itself.
enum class End {
  closed,    ///< the other end closed, or the socket failed
  malformed, ///< what the other end sent cannot be a message
  stalled,   ///< the other end did not finish a message, or did not read
};

class Stream final : public std::enable_shared_from_this<Stream> {
public:
  using OnMessage = std::move_only_function<void(Message)>;
  using OnEnd = std::move_only_function<void(End)>;

  /// Handlers are called from the event loop only, never from within a call of this class (drain excepted), and not
  /// after close. `ended` is called at most once, with the socket closed already. They must own nothing that owns the
  /// stream.
  Stream(Socket socket, StreamLimits limits, OnMessage received, OnEnd ended);
  void start();

  /// Sends one message: `header` (whose size is filled in), then `head` and `tail`, with `fds`; all borrowed, copied
  /// where they must wait. What cannot be sent ends the stream, later.
  void send(Header header, std::span<const std::byte> head = {}, std::span<const std::byte> tail = {},
            std::span<const int> fds = {});

  /// No message is handed out while paused; a stream whose other end goes meanwhile ends at once.
  void pause() noexcept { paused_ = true; }
  void resume();

  bool hung_up() const noexcept; ///< whether the other end has closed; there may still be messages to read
  void drain();                  ///< reads what there is, now

  void close();
  bool is_open() const noexcept { return open_; }
  std::size_t waiting() const noexcept { return queued_; } ///< bytes that the other end has not taken yet
  int native_handle() { return socket_.native_handle(); }
  boost::asio::any_io_executor executor() { return socket_.get_executor(); }

private:
  struct Output {
    std::vector<std::byte> bytes;
    std::vector<Fd> fds;
    std::size_t sent = 0;
  };
  enum class Got { bytes, all, nothing, end };

  void wait_readable();
  void wait_hang_up();
  void on_readable();
  Got receive();
  void make_room();
  bool keep_descriptors(const struct msghdr& message);
  void deliver();
  bool deliver_one();
  void watch_input();
  bool reading_allowed() const noexcept { return !paused_ && queued_ <= limits_.output_high; }

  void enqueue(std::span<const std::span<const std::byte>> parts, std::size_t skip, std::span<const int> fds);
  void wait_writable();
  void on_writable();
  void watch_output();
  void end(End why);
  void end_later(End why);

  Socket socket_;
  boost::asio::steady_timer input_timer_, output_timer_;
  StreamLimits limits_;
  OnMessage received_;
  OnEnd ended_;
  bool open_ = true, failed_ = false, paused_ = false, delivering_ = false;
  bool waiting_readable_ = false, waiting_hang_up_ = false, waiting_writable_ = false;

  std::unique_ptr<std::byte[]> input_;
  std::size_t capacity_ = 0, begin_ = 0, end_ = 0; ///< of the bytes in input_ not yet handed out
  std::vector<Fd> fds_;                            ///< of the message at begin_
  std::vector<Fd> last_fds_;                       ///< of the message that holds the last byte before end_
  std::uint64_t delivered_ = 0, watched_ = 0;      ///< messages; the one that input_timer_ is armed for
  bool input_watched_ = false, output_watched_ = false;

  std::deque<Output> output_;
  std::size_t queued_ = 0; ///< bytes in output_ not yet sent
};

} // namespace smartio::vfio::user
