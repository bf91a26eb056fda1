// A loan at the borrower: RUN_DIR/loans/ID/cntrl, a vfio-user server whose device is the lender's.
#pragma once

#include "borrowed_device.hpp"
#include "device_source.hpp"
#include "user/server.hpp"
#include "vm_device.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace smartio {

class LoanSocket final : public std::enable_shared_from_this<LoanSocket> {
public:
  using Events = std::function<void(core::Event)>;
  struct Options {
    core::LoanId loan;
    std::string directory;     ///< of the socket; made, and removed at the end
    DeviceSource lender;       ///< the lender's device, for one client each time it is opened
    std::string owner;         ///< USER[:GROUP] of the socket; empty: as it is made
    std::string trusted_group; ///< whose members may map registers of this host's devices; empty: none
    /// Whether a process asked this node for the device, as programs on libsmartio do: it was told what happens if it
    /// does not let go.
    std::function<bool(::pid_t)> is_program;
    bool shared;
  };

  /// Proves the fabric by opening the lender's device, then listens; LoanOpened tells how it went. Later UsageChanged
  /// and FabricLost, and LoanClosed after close().
  static std::shared_ptr<LoanSocket> open(boost::asio::io_context& io, Options options, Events events);

  /// Tells clients that the device is gone and waits up to 500 ms for them to leave; then LoanClosed. Who stays is
  /// answered with ones until it leaves.
  void close(bool orderly);
  void abandon(); ///< at once, no event

private:
  struct Session {
    std::shared_ptr<BorrowedDevice> device;
    std::shared_ptr<VmDevice> guarded; ///< none for a program on libsmartio, which is told of each failure
    ::ucred client;
  };

  LoanSocket(boost::asio::io_context& io, Options options, Events events);
  void fabric_proved(Result<OpenedDevice> device);
  void keep_spare(OpenedDevice device);
  Result<void> listen();
  bool trusts(const ::ucred& client) const;
  Result<void> give_to_owner(const std::string& path) const;
  std::expected<std::shared_ptr<vfio::Device>, int> accept(const ::ucred& client);
  void left();
  void attach(const std::shared_ptr<BorrowedDevice>& device, OpenedDevice lent);
  void revoke(bool orderly);
  void serve_virtual_machine(Session& session);
  bool is_program(::pid_t pid) const { return pid == ::getpid() || options_.is_program(pid); }
  void usage_changed();
  void client_stays();
  void drop_spare();
  void closed();

  boost::asio::io_context& io_;
  Options options_;
  Events events_;
  OpenedDevice spare_; ///< proved the fabric, and waits for the first client
  std::unique_ptr<vfio::user::Server> server_;
  std::shared_ptr<Session> session_;
  std::string problem_; ///< why the device failed for the newest client; empty: it did not
  boost::asio::steady_timer patience_;
  std::shared_ptr<LoanSocket> self_; ///< while a client stays although the loan has ended
  bool closing_ = false, reported_ = false;
};

} // namespace smartio
