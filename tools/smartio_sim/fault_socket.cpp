#include "fault_socket.hpp"

#include "result.hpp"

#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>

namespace smartio::sim {

using boost::asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr std::size_t longest_line = 256;

/// One client, until it closes or sends what is no line.
class Session : public std::enable_shared_from_this<Session> {
public:
  Session(stream_protocol::socket socket, FaultSocket::Command command)
      : socket_(std::move(socket)), command_(std::move(command)) {}

  void read() {
    boost::asio::async_read_until(socket_, boost::asio::dynamic_buffer(input_, longest_line), '\n',
                                  [self = shared_from_this()](error_code error, std::size_t size) {
                                    if (!error) self->answer(size);
                                  });
  }

private:
  void answer(std::size_t size) {
    reply_ = command_(std::string_view(input_).substr(0, size - 1)) ? "ok\n" : "unknown\n";
    input_.erase(0, size);
    boost::asio::async_write(socket_, boost::asio::buffer(reply_),
                             [self = shared_from_this()](error_code error, std::size_t) {
                               if (!error) self->read();
                             });
  }

  stream_protocol::socket socket_;
  FaultSocket::Command command_;
  std::string input_;
  std::string_view reply_;
};

} // namespace

struct FaultSocket::State : std::enable_shared_from_this<State> {
  State(vfio::user::ListeningPath listening, stream_protocol::acceptor listener, Command handler)
      : path(std::move(listening)), acceptor(std::move(listener)), command(std::move(handler)) {}

  void wait() {
    acceptor.async_accept([weak = weak_from_this()](error_code error, stream_protocol::socket socket) {
      const auto self = weak.lock();
      if (error || !self) return;
      std::make_shared<Session>(std::move(socket), self->command)->read();
      self->wait();
    });
  }

  vfio::user::ListeningPath path;
  stream_protocol::acceptor acceptor;
  Command command;
};

Result<std::unique_ptr<FaultSocket>> FaultSocket::listen(boost::asio::io_context& io, const std::string& path,
                                                         Command command) {
  auto listening = TRY(vfio::user::ListeningPath::listen(path));
  stream_protocol::acceptor acceptor(io);
  error_code error;
  auto socket = listening.take_socket();
  acceptor.assign(stream_protocol(), socket.get(), error);
  if (error) return fail_errno(error.value(), fmt::format("watch {}", path));
  socket.release();
  auto state = std::make_shared<State>(std::move(listening), std::move(acceptor), std::move(command));
  state->wait();
  return std::unique_ptr<FaultSocket>(new FaultSocket(std::move(state)));
}

FaultSocket::FaultSocket(std::shared_ptr<State> state) : state_(std::move(state)) {}
FaultSocket::~FaultSocket() = default;

} // namespace smartio::sim
