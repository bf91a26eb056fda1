// The shell around core::Node: performs its effects and turns their outcome into its events. Owns every socket, device
// and timer of a node; decides nothing. Everything runs on one thread.
#pragma once

#include "accepting.hpp"
#include "frame_stream.hpp"
#include "host/uevents.hpp"
#include "host_devices.hpp"
#include "kernel/device.hpp"
#include "lent_device.hpp"
#include "loan_socket.hpp"
#include "local.hpp"
#include "names.hpp"
#include "node.hpp"
#include "ntb/peer.hpp"
#include "remote_client.hpp"
#include "remote_device.hpp"
#include "server_watch.hpp"
#include "state_file.hpp"

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <smartio/node.hpp>

namespace smartio {

class Shell {
public:
  /// Takes the directories, opens the sockets, reads the state: whatever can fail at a start. Nothing is kept on
  /// failure.
  static Result<std::unique_ptr<Shell>> open(const Config& config);
  ~Shell();

  void run(); ///< until stop(); on the thread that owns everything from now on
  void
  stop(); ///< any thread: ends loans in order, closes devices, then run() returns; again: without waiting for peers

  /// Any thread: one management command; `done` is called on the shell's thread.
  using Done = std::move_only_function<void(Result<core::Json> result, std::string note)>;
  void command(core::ControlId from, std::string name, core::Json arguments, Done done);
  core::ControlId new_control();                ///< any thread: names someone who gives commands
  void control_closed(core::ControlId control); ///< any thread: loans it opened end

  using Watcher = std::function<bool(const std::string& event)>; ///< false: no more
  void watch(Watcher watcher);                                   ///< any thread

  NodeId id() const { return config_.node; }

private:
  explicit Shell(const Config& config);
  Result<void> open_directories();
  Result<void> open_sockets();
  Result<void> listen_for_peers();
  Result<core::Intent> read_state() const;

  void handle(core::Event event);
  void perform(core::Reply&);
  void answer(core::Reply& reply);
  void answer_all();
  void perform(core::Emit&);
  void perform(core::Save&);
  void perform(core::Dial&);
  void perform(core::Send&);
  void perform(core::Drop&);
  void perform(core::Arm&);
  void perform(core::Disarm&);
  void perform(core::ProbeDevice&);
  void perform(core::OpenDevice&);
  void perform(core::CloseDevice&);
  void perform(core::ForgetDevice&);
  void perform(core::ScanHost&);
  void perform(core::ReadConfig&);
  void perform(core::EndLoan&);
  void perform(core::ClientsReleased&);
  void perform(core::OpenLoan&);
  void perform(core::CloseLoan&);
  void perform(core::UseBridges&);
  void perform(core::Log&);
  void perform(core::Idle&);

  // shell_links.cpp
  void accept_peer(boost::asio::ip::tcp::socket socket);
  core::LinkId add_link(FrameStream::Socket socket);
  void start_link(core::LinkId link);
  void connect_next(NodeId node, std::shared_ptr<Names::Endpoints> endpoints, std::string why);
  void warn(const std::string& text);
  // shell_control.cpp
  void add_control(boost::asio::local::stream_protocol::socket socket);
  void control_frame(core::ControlId control, ::pid_t pid, const std::shared_ptr<FrameStream>& stream,
                     const core::Frame& frame);

  bool is_program(::pid_t pid) const;

  // shell_devices.cpp
  void watch_host();
  void open_device(DeviceId id, DeviceSource source);
  void open_failed(DeviceId id, const Error& error);
  DeviceSource local_source(const core::OpenLoan& loan);
  DeviceSource user_source(const std::string& path, bool needs_reset = false);
  DeviceSource kernel_source(const Bdf& bdf, vfio::kernel::Interface interface);
  static std::string random_uuid();
  static std::size_t share_of_descriptors(std::size_t part, std::size_t most);
  OpenedDevice opened_kernel(const Bdf& bdf, const std::shared_ptr<vfio::kernel::Device>& device);
  void give_back(DeviceId id);
  void try_server(DeviceId id, const std::string& path);
  void server_missed(DeviceId id, const std::optional<Error>& error = std::nullopt);

  // shell_bridges.cpp
  struct Bridge {
    std::optional<Bdf> taken{};                      ///< from its driver
    std::move_only_function<void()> end_when_open{}; ///< it is to end, but is being opened
    bool opening = false;
    OpenedDevice device{};
    std::shared_ptr<fabric::ntb::Peer> peer{};             ///< while it is open
    std::shared_ptr<Exposures> exposures{};                ///< as long
    bool failed = false, over = false;                     ///< over: nothing of it is open any more
    std::vector<std::move_only_function<void()>> enders{}; ///< who waits for that
  };
  using Bridges = std::map<std::string, std::shared_ptr<Bridge>>; ///< by address
  using BridgeNode = Bridges::node_type;
  /// A loan's client here, whose device is beyond a bridge.
  struct RemoteLoan {
    core::LinkId link;
    std::shared_ptr<fabric::ntb::Peer> bridge;
    std::weak_ptr<RemoteDevice> device;
  };
  /// A loan's client beyond a bridge, whose device is here.
  struct RemoteEnd {
    core::LoanId loan;
    std::shared_ptr<RemoteClient> client;
    std::function<void()> gone; ///< once it is served
  };
  using RemoteClientKey = std::pair<core::LinkId, std::uint32_t>; ///< link and session
  void open_bridges();
  void open_bridge(const std::string& address);
  void bridge_opened(const std::string& address, const std::shared_ptr<Bridge>& bridge, Result<OpenedDevice> opened);
  void start_bridge(const std::string& address, const std::shared_ptr<Bridge>& bridge);
  void bridge_failed(const std::string& address, const std::shared_ptr<Bridge>& bridge, const Error& error);
  void bridge_changed(const std::string& address, const Bridge& bridge);
  void bridge_wanted_back(const std::string& address);
  void bridge_appeared(const std::string& address);
  void retry_bridges();
  void close_bridge(BridgeNode node, std::move_only_function<void()> closed);
  void end_bridge(const std::string& address, const std::shared_ptr<Bridge>& bridge,
                  std::move_only_function<void()> closed);
  bool is_current(const std::string& address, const std::shared_ptr<Bridge>& bridge) const;
  /// Of the bridge that leads there, if it is up.
  std::shared_ptr<Exposures> exposures_to(NodeId node) const;

  // shell_remote.cpp
  DeviceSource remote_source(core::LoanId loan, core::LinkId link, std::uint64_t window);
  void open_remote(core::LoanId loan, core::LinkId link, Exposures::ReserveRef reserve, DeviceSource::Opened opened);
  void lose_remote_devices(const std::function<bool(const RemoteLoan&)>& which);
  void send_device_message(core::LinkId link, const core::DeviceMessage& message);
  void device_frame(core::LinkId link, const std::string& payload);
  void serve_remote(const RemoteClientKey& key, core::DeviceMessage command);
  void end_waiting(const std::function<bool(const RemoteClientKey&, const RemoteEnd&)>& which);
  void remote_link_ended(core::LinkId link);
  void stop_now();
  std::string loans_directory() const { return config_.run_dir + "/loans"; }

  Config config_;
  boost::asio::io_context io_{1};
  Fd run_lock_, state_lock_;
  std::unique_ptr<core::Node> node_;
  std::optional<StateFile> state_file_; ///< none without a state directory
  std::deque<core::Event> events_;
  bool handling_ = false, leaving_ = false, stopping_ = false; ///< leaving: loans are ending before it stops
  boost::asio::steady_timer stop_timer_;
  boost::asio::ip::tcp::acceptor peers_;
  Accepting<boost::asio::ip::tcp::acceptor> accepting_peers_;
  Names names_;
  boost::asio::local::stream_protocol::acceptor controls_;
  Accepting<boost::asio::local::stream_protocol::acceptor> accepting_controls_;
  std::unique_ptr<fabric::LocalListener> fabric_;
  vfio::user::Counters counters_;
  /// Connections of a kind take no more than their share of the process's descriptors, so that others find some.
  const std::size_t most_links_ = share_of_descriptors(4, 4096), most_controls_ = share_of_descriptors(8, 1024);
  std::map<core::LinkId, std::shared_ptr<FrameStream>> links_;
  core::Message last_sent_{};
  std::string last_frame_{}; ///< it encoded; empty: none yet
  std::map<core::ControlId, std::shared_ptr<FrameStream>> control_streams_;
  std::map<core::ControlId, ::pid_t> programs_; ///< that opened a device over their control connection
  std::map<core::RequestId, Done> requests_;
  struct Alarm {
    boost::asio::steady_timer timer;
    std::uint64_t generation; ///< an expiry that was on its way when the timer was armed again is told apart by it
  };
  std::map<core::Timer, Alarm> timers_;
  std::uint64_t next_generation_ = 1;
  std::shared_ptr<PeerWindows> peer_windows_ = std::make_shared<PeerWindows>();
  std::map<DeviceId, std::shared_ptr<LentDevice>> devices_;
  ServerWatch servers_{io_, [this](const std::string& path) { handle(core::DeviceAppeared{"vfio-user:" + path}); }};
  std::map<DeviceId, std::string> server_paths_; ///< of devices that have one
  std::map<DeviceId, Bdf> taken_;                ///< from their drivers, or about to be
  std::unique_ptr<HostDevices> host_;
  /// Held by whoever opens or closes a device of this host; what `last` holds goes when nobody does any more.
  struct InUse {
    std::move_only_function<void()> last;
  };
  std::shared_ptr<InUse> host_in_use_ = std::make_shared<InUse>();
  /// One for all, so that functions of one IOMMU group find each other.
  std::shared_ptr<vfio::kernel::System> kernel_ = vfio::kernel::real_system();
  const std::string vf_token_ = random_uuid(); ///< of all functions this node lends; nobody else knows it
  std::optional<vfio::host::Uevents> uevents_;
  std::map<core::LoanId, std::shared_ptr<LoanSocket>> loans_;
  core::UseBridges wanted_bridges_;
  Bridges bridges_;
  std::map<std::string, unsigned> closing_bridges_;    ///< how many times
  std::map<std::string, std::string> bridge_problems_; ///< that were logged
  boost::asio::steady_timer bridge_timer_;             ///< until servers of failed bridges are tried again
  std::chrono::milliseconds bridge_pause_{};
  std::map<std::uint32_t, RemoteLoan> remote_loans_; ///< by session
  std::uint32_t next_session_ = 1;
  std::map<RemoteClientKey, RemoteEnd> remote_clients_;
  std::map<core::LinkId, std::uint32_t> newest_session_; ///< of remote clients
  std::vector<Watcher> watchers_;
  core::LinkId next_link_ = core::first_link;
  core::RequestId next_request_ = 1;
  std::atomic<core::ControlId> next_control_{1};
};

} // namespace smartio
