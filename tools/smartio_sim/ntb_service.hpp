// What `smartio_sim ntb` serves: a vfio-user socket for each end of one bridge, one client at a time on each, and
// perhaps a socket that takes faults to inject.
#pragma once

#include "fault_socket.hpp"
#include "ntb/bridge.hpp"
#include "user/server.hpp"

#include <boost/asio/steady_timer.hpp>

namespace smartio::sim {

class NtbService {
public:
  NtbService(boost::asio::io_context& io, const ntb::Chip& chip, std::uint64_t window_bytes);

  /// Errors: those of vfio::user::Server::listen.
  Result<void> listen(ntb::Side side, const std::string& path);
  Result<void> listen_for_faults(const std::string& path);
  std::string counters() const; ///< a line of JSON

private:
  struct End {
    std::unique_ptr<vfio::user::Server> server;
    std::uint64_t clients = 0;
  };
  std::expected<std::shared_ptr<vfio::Device>, int> accept(ntb::Side side);
  ntb::Messages messages_to(ntb::Side side);
  void train();
  std::string counters_of(ntb::Side side) const;
  End& end(ntb::Side side) { return ends_[static_cast<std::size_t>(side)]; }

  boost::asio::io_context& io_;
  boost::asio::steady_timer training_;
  ntb::Bridge bridge_;
  std::array<End, 2> ends_; // their connections call the bridge
  std::unique_ptr<FaultSocket> faults_;
};

} // namespace smartio::sim
