// Names of hosts to addresses, without holding anything up: each look-up waits on a thread of its own, which nobody
// waits for.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <smartio/error.hpp>
#include <vector>

namespace smartio {

class Names {
public:
  using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;
  using Found = std::function<void(Result<Endpoints>)>;

  /// `io` must live as long as this.
  explicit Names(boost::asio::io_context& io);
  ~Names(); ///< look-ups under way end by themselves; no `found` is called any more

  /// `found` is called once, from the event loop: addresses, or why there are none. An address in figures is given at
  /// once; a name within `patience`, else Errc::timed_out. Few look-ups run at a time (the system's resolver may take
  /// its time for each); the others wait for their turn, and that counts.
  void find(const std::string& host, const std::string& port, Found found);

  static constexpr std::chrono::seconds patience{5};

private:
  struct State;
  std::shared_ptr<State> state_;
};

} // namespace smartio
