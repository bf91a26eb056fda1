// Accepting connections, also when the process has run out of descriptors: then it waits, and says so once. What a
// program that embeds the node executes inherits none of them, which Asio alone does not see to.
#pragma once

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <functional>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

namespace smartio {

/// For a kind of connections, so that others find some: one `part`th of the descriptors of this process, at most
/// `most`.
inline std::size_t share_of_descriptors(std::size_t part, std::size_t most) {
  ::rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return most;
  return std::clamp<std::size_t>(limit.rlim_cur / part, 16, most);
}

/// Close-on-exec from the start.
template <class Socket, class Protocol>
void open_close_on_exec(Socket& socket, const Protocol& protocol, boost::system::error_code& error) {
  const int fd = ::socket(protocol.family(), protocol.type() | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol.protocol());
  if (fd < 0) return error.assign(errno, boost::system::system_category());
  socket.assign(protocol, fd, error);
  if (error) ::close(fd);
}

/// Goes on until the acceptor, opened as above, is closed. Both must live until the event loop ends.
template <class Acceptor> class Accepting {
public:
  using Socket = typename Acceptor::protocol_type::socket;

  Accepting(Acceptor& acceptor, std::function<void(Socket)> accepted, std::function<void(const char*)> warn)
      : acceptor_(acceptor), pause_(acceptor.get_executor()), accepted_(std::move(accepted)), warn_(std::move(warn)) {}

  void start() {
    acceptor_.async_wait(Acceptor::wait_read, [this](boost::system::error_code error) {
      if (error || !acceptor_.is_open()) return;
      const int fd = take();
      if (fd < 0 && is_shortage(errno)) return wait();
      if (fd >= 0) accept(fd);
      if (acceptor_.is_open()) start();
    });
  }

  /// Those that wait already, before the acceptor is given up for another one.
  void accept_waiting() {
    for (int fd = take(); fd >= 0; fd = take()) accept(fd);
  }

private:
  int take() { return ::accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }
  static bool is_shortage(int number) {
    return number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOBUFS;
  }
  void accept(int fd) {
    boost::system::error_code error;
    Socket socket(acceptor_.get_executor());
    const auto here = acceptor_.local_endpoint(error);
    if (!error) socket.assign(here.protocol(), fd, error);
    if (error) return void(::close(fd));
    short_ = false;
    accepted_(std::move(socket));
  }
  /// Nothing tells when there are descriptors again.
  void wait() {
    if (!std::exchange(short_, true)) warn_("connections wait: there are no file descriptors left");
    pause_.expires_after(std::chrono::milliseconds(100));
    pause_.async_wait([this](boost::system::error_code error) {
      if (!error && acceptor_.is_open()) start();
    });
  }

  Acceptor& acceptor_;
  boost::asio::steady_timer pause_;
  std::function<void(Socket)> accepted_;
  std::function<void(const char*)> warn_;
  bool short_ = false;
};

} // namespace smartio
