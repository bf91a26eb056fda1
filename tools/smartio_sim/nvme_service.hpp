// The event loop of `smartio_sim nvme`: one client at a time on a vfio-user socket, a fresh controller for each, and
// the polling of its doorbells, whose stores send no message; perhaps a socket that takes faults to inject.
#pragma once

#include "fault_socket.hpp"
#include "nvme/faulty_store.hpp"
#include "nvme/nvme_function.hpp"
#include "user/server.hpp"

#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

namespace smartio::sim {

class NvmeService {
public:
  NvmeService(std::unique_ptr<nvme::Store> store, nvme::Identity identity, const nvme::Shape& shape);
  ~NvmeService();

  /// Errors: those of vfio::user::Server::listen.
  Result<void> listen(const std::string& path);
  Result<void> listen_for_faults(const std::string& path);
  /// Serves until SIGTERM or SIGINT; SIGUSR1 prints a line of counters.
  void run();
  void stop(); ///< any thread: ends run()

private:
  std::expected<std::shared_ptr<vfio::Device>, int> accept();
  void closed();
  void await_signal();
  void on_signal(int number);
  std::string counters() const;
  nvme::ControllerCounters counters_so_far() const;
  bool inject(std::string_view line);
  bool work();
  void sleep(std::chrono::microseconds most);

  std::shared_ptr<nvme::FaultyStore> store_;
  nvme::Identity identity_;
  nvme::Shape shape_;
  std::shared_ptr<nvme::Faults> faults_ = std::make_shared<nvme::Faults>();
  boost::asio::io_context io_{1};
  std::shared_ptr<nvme::Flusher> flusher_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<vfio::user::Server> server_;
  std::shared_ptr<nvme::NvmeFunction> function_; ///< of the client, if there is one
  std::uint64_t clients_ = 0;
  nvme::ControllerCounters past_; ///< of clients that have gone
  bool stopping_ = false;
  std::unique_ptr<FaultSocket> fault_socket_;
};

} // namespace smartio::sim
