// Accepting connections, also when the process has run out of descriptors: then it waits, and says so once.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>

namespace smartio {

/// Goes on until the acceptor is closed. Both must live until the event loop ends.
template <class Acceptor> class Accepting {
public:
  using Socket = typename Acceptor::protocol_type::socket;

  Accepting(Acceptor& acceptor, std::function<void(Socket)> accepted, std::function<void(const char*)> warn)
      : acceptor_(acceptor), pause_(acceptor.get_executor()), accepted_(std::move(accepted)), warn_(std::move(warn)) {}

  void start() {
    acceptor_.async_accept([this](boost::system::error_code error, Socket socket) {
      if (!acceptor_.is_open()) return;
      if (is_shortage(error)) return wait();
      if (!error) short_ = false;
      if (!error) accepted_(std::move(socket));
      start();
    });
  }

private:
  static bool is_shortage(boost::system::error_code error) {
    return error == boost::asio::error::no_descriptors || error == boost::asio::error::no_memory ||
           error == boost::asio::error::no_buffer_space || error == boost::system::errc::too_many_files_open_in_system;
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
