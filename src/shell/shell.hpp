// The shell around core::Node: its parts perform the node's effects and turn their outcome into its events; this wires
// them together. Owns every socket, device and timer of a node; decides nothing. Everything runs on one thread.
#pragma once

#include "bridges.hpp"
#include "control.hpp"
#include "directories.hpp"
#include "host/uevents.hpp"
#include "lent_devices.hpp"
#include "links.hpp"
#include "loan_sockets.hpp"
#include "local.hpp"
#include "node.hpp"
#include "remote_clients.hpp"
#include "remote_loans.hpp"
#include "state_file.hpp"
#include "timers.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <smartio/node.hpp>

namespace smartio {

class Shell {
public:
  /// Takes the directories, opens the sockets, reads the state: whatever can fail at a start. Nothing is kept on
  /// failure.
  static Result<std::unique_ptr<Shell>> open(Config config);

  void run(); ///< until stop(); on the thread that owns everything from now on
  /// Any thread, once: ends loans in order, with 5 s for what peers have to do, closes devices, then run() returns.
  void stop();

  /// Any thread, once run() has returned: the first device that did not go back to its driver.
  Result<void> outcome() const { return left_ ? Result<void>(std::unexpected(*left_)) : Result<void>{}; }

  /// Any thread: one management command; `done` is called on the shell's thread.
  void command(core::ControlId from, std::string name, core::Json arguments, Control::Done done);
  core::ControlId new_control() { return control_.new_id(); } ///< any thread
  void control_closed(core::ControlId control);               ///< any thread: loans it opened end
  void watch(Control::Watcher watcher);                       ///< any thread

  NodeId id() const { return config_.node; }

private:
  /// What is there before the shell is.
  struct Ground {
    Config config;
    Directories directories;
    std::unique_ptr<boost::asio::io_context> io;
    std::unique_ptr<HostDevices> host;
    std::unique_ptr<core::Node> node;
  };
  explicit Shell(Ground ground);
  Result<void> listen();
  void watch_host();

  void handle(core::Event event);
  void perform(core::Reply&);
  void perform(core::Emit& effect) { control_.emit(effect.event); }
  void perform(core::Save& effect);
  void perform(core::Dial& effect) { links_.perform(effect); }
  void perform(core::Send& effect) { links_.perform(effect); }
  void perform(core::Drop&);
  void perform(core::Arm& effect) { timers_.arm(effect); }
  void perform(core::Disarm& effect) { timers_.disarm(effect.timer); }
  void perform(core::ProbeDevice& effect) { devices_.perform(effect); }
  void perform(core::FindDevices& effect) { devices_.perform(effect); }
  void perform(core::OpenDevice& effect) { devices_.perform(effect); }
  void perform(core::CloseDevice& effect) { devices_.perform(effect); }
  void perform(core::ForgetDevice& effect) { devices_.perform(effect); }
  void perform(core::ReadConfig& effect) { devices_.perform(effect); }
  void perform(core::EndLoan& effect) { devices_.perform(effect); }
  void perform(core::ClientsReleased& effect) { devices_.perform(effect); }
  void perform(core::ScanHost&);
  std::uint64_t changes() const { return state_file_ ? state_file_->changes() : 0; }
  void perform(core::OpenLoan&);
  void perform(core::CloseLoan& effect) { loans_.perform(effect); }
  void perform(core::UseBridges& effect) { bridges_.perform(effect); }
  void perform(core::Log& effect) { context_.log(effect.level, effect.text); }
  void perform(core::Idle&) { stop_now(); }

  void answer(core::Reply& reply);
  void device_frame(core::LinkId link, const std::string& payload);
  void send_device_message(core::LinkId link, const core::DeviceMessage& message);
  void serve_local(const fabric::Ticket& ticket, fabric::Socket socket);
  void stop_now();
  void end();

  // Ended from below upwards.
  Config config_;
  Directories directories_;
  std::unique_ptr<boost::asio::io_context> io_;
  std::unique_ptr<HostDevices> host_;
  std::unique_ptr<core::Node> node_;
  Context context_;
  vfio::user::Counters counters_;
  std::optional<StateFile> state_file_; ///< none without a state directory
  std::deque<core::Event> events_;
  bool handling_ = false;
  std::optional<Error> left_;
  boost::asio::steady_timer stop_timer_;
  struct Request {
    Control::Done done;
    std::uint64_t changes; ///< of the state, when it came
  };
  std::map<core::RequestId, Request> requests_;
  core::RequestId next_request_ = 1;
  Timers timers_;
  Links links_;
  Control control_;
  DeviceSources sources_;
  LentDevices devices_;
  Bridges bridges_;
  RemoteLoans remote_loans_;
  RemoteClients remote_clients_;
  LoanSockets loans_;
  std::unique_ptr<fabric::LocalListener> fabric_;
  std::optional<vfio::host::Uevents> uevents_;
};

} // namespace smartio
