// A device that this node lends: open, used by the clients of its loans one after the other (or several,
// of a shared loan), and cleaned up after each. Decides nothing: core says who may use it and when a loan ends.
#pragma once

#include "client_device.hpp"
#include "describe.hpp"
#include "device_source.hpp"
#include "end_of_loan.hpp"
#include "local.hpp"
#include "user/server.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>

namespace smartio {

class LentDevice final : public std::enable_shared_from_this<LentDevice> {
public:
  using Events = std::function<void(core::Event)>;
  using Opened = std::move_only_function<void(Result<std::shared_ptr<LentDevice>>)>;

  /// Opens the device and asks what it is. `events` gets DeviceLost, TellClients, LoanEnded and UseEnded until close().
  static void open(boost::asio::io_context& io, DeviceId id, DeviceSource source,
                   std::shared_ptr<RegisterWindows> peers, Events events, Opened opened);

  /// Begins to serve the device to a client, calls `gone` when that has left, and gives what ends it.
  using Serve = std::function<std::function<void()>(std::shared_ptr<vfio::Device> device, std::function<void()> gone)>;
  /// Serves the device to a client of `loan`, once what ended before is cleaned up, and to one of a shared loan once a
  /// slice of the IOVAs is free. A loan has one client: an older one is ended first, and for an exclusive loan all are.
  void attach(core::LoanId loan, bool shared, Serve serve);

  /// The loan is over: core's order of steps, then LoanEnded. `last`: nobody else uses the device.
  void end(core::LoanId loan, bool last);
  void clients_released(core::LoanId loan); ///< the borrower let go: end() need not wait for it

  /// As the device gives it, or as the (first) client sees it if there is one.
  void read_config(bool emulated, std::move_only_function<void(Result<std::vector<std::byte>>)> done);

  const core::Identity& identity() const { return description_.identity; }
  const std::shared_ptr<vfio::Device>& device() const { return open_.device; } ///< null while it is closed

  /// Drops clients and the device; no event follows. `closed` is called once nothing of it is open any more.
  void close(std::move_only_function<void()> closed = [] {});

private:
  using Step = core::EndOfLoan::Step;
  /// A client of a loan.
  struct Session {
    core::LoanId loan;
    std::shared_ptr<ClientDevice> device;
    std::function<void()> disconnect; ///< none: it is not served any more
    bool ending = false;
  };
  /// What is done one at a time, in order.
  struct Job {
    core::LoanId loan;
    bool last, keep;
    std::shared_ptr<Session> only; ///< with keep: the client that left
  };
  struct Arrival {
    core::LoanId loan;
    bool shared;
    Serve serve;
  };

  LentDevice(boost::asio::io_context& io, DeviceId id, DeviceSource source, std::shared_ptr<RegisterWindows> peers,
             Events events);
  boost::asio::awaitable<Result<void>> open_now();
  bool may_change(const Error& error) const;
  std::optional<std::string> why_lost() const; ///< where more is known than the source says
  boost::asio::awaitable<void> close_now();
  boost::asio::awaitable<void> withdraw_registers(const vfio::Device* device);
  // `self`: they may begin later, when nobody else has this any more.
  boost::asio::awaitable<void> shut_down(std::shared_ptr<LentDevice> self, std::move_only_function<void()> closed);
  void watch();
  void session_closed(const std::shared_ptr<Session>& session);
  void work();
  boost::asio::awaitable<void> run(std::shared_ptr<LentDevice> self, Job job);
  boost::asio::awaitable<std::optional<Error>> perform(Step step, const Job& job,
                                                       const std::vector<std::shared_ptr<Session>>& sessions);
  boost::asio::awaitable<vfio::Reply> ask_now(vfio::Request request);
  boost::asio::awaitable<std::optional<Error>> bus_master_off();
  boost::asio::awaitable<std::optional<Error>> interrupts_off(bool all,
                                                              const std::vector<std::shared_ptr<Session>>& sessions);
  boost::asio::awaitable<std::optional<Error>> unmap(bool all, const std::vector<std::shared_ptr<Session>>& sessions);
  boost::asio::awaitable<void> tell_clients(core::LoanId loan);
  std::optional<unsigned> free_slice() const;
  void serve(Arrival arrival, std::optional<unsigned> slice);
  static void disconnect(Session& session);

  boost::asio::io_context& io_;
  DeviceId id_;
  DeviceSource source_;
  std::shared_ptr<RegisterWindows> peers_;
  std::shared_ptr<VectorOwners> vectors_ = std::make_shared<VectorOwners>();
  Events events_;
  OpenedDevice open_;
  Description description_;
  std::vector<std::shared_ptr<Session>> sessions_;
  std::deque<Job> jobs_;
  std::deque<Arrival> arrivals_;
  bool working_ = false, closed_ = false, lost_ = false;
  bool fresh_ = true;                                    ///< nobody has used it since it was opened
  boost::asio::steady_timer release_timer_, idle_timer_; ///< the latter ends with the job under way
  std::optional<core::LoanId> awaiting_release_;
};

} // namespace smartio
