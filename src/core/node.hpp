// A node's decisions: handle(event) gives the effects to perform, in order. Pure: no descriptor, clock, thread or Asio,
// so that reconnects, races and take-backs are tables in a unit test, and a fuzzer can drive them.
#pragma once

#include "bdf.hpp"
#include "documents.hpp"
#include "events.hpp"
#include "intent.hpp"
#include "loan.hpp"
#include "own_devices.hpp"
#include "peers.hpp"

#include <deque>
#include <map>
#include <ranges>
#include <set>
#include <string>
#include <vector>

namespace smartio::core {

/// Requests that the node makes of itself; below are the shell's.
inline constexpr RequestId first_own_request = RequestId{1} << 63;

/// A value: a copy goes on as the original would have. Large because one event (a link that ends, a return) changes
/// peers, devices and loans together, in one order; what each of those is stands in a header of its own.
class Node {
public:
  Node(Settings settings, Intent intent) : settings_(std::move(settings)), intent_(std::move(intent)) {}

  /// `now` is the time of the event; it only ever shows in documents.
  std::vector<Effect> handle(Event event, Time now);

  /// Whether the local fabric may give a connection to `loan` to whoever proves `nonce`.
  bool admits(const LoanId& loan, const std::string& nonce) const;

  /// Whether the node at the other end of the link has that loan, and its messages for the device may reach it.
  bool admits(const LoanId& loan, LinkId link) const;
  NodeId peer_of(LinkId link) const; ///< 0: none yet

  bool is_shared(const LoanId& loan) const; ///< a loan this node granted

  NodeId id() const noexcept { return settings_.node; }
  const std::string& fabric_token() const noexcept { return settings_.fabric_token; } ///< where the local fabric is met
  Json list_document() const { return Json::parse(core::list_document(view()).value_or("null")); }
  Json status_document() const { return Json::parse(core::status_document(view()).value_or("null")); }
  std::string state() const { return encode(intent_, settings_.node); } ///< the whole state file

private:
  View view() const {
    return {settings_, intent_, devices_, bridges_, borrowers_, lenders_, loans_, counters_, next_event_ - 1, unsaved_};
  }

  /// Commands that a filter makes of one: answered together.
  struct Batch {
    RequestId request;
    std::size_t open = 1; ///< answers outstanding, and 1 while more are being added
    Json devices = Json::array();
    std::vector<Error> failures{};
    std::string note{};
  };
  enum class ScanFor : std::uint8_t { add, available, unavailable, remove, appeared };
  using Matches = std::vector<std::vector<std::string>>; ///< for each rule, addresses
  struct Scan {
    ScanFor purpose;
    std::vector<FilterRule> rules;
    std::optional<RequestId> request{};
  };
  struct PeerRead {
    LinkId link;
    std::uint64_t number;
  };

  // node.cpp
  void on(const Started&);
  void on(Command&);
  void on(const StateSaved&);
  void on(const ControlClosed&);
  void on(const TimerFired&);
  void on(const Stopping&);
  void stop_when_idle();
  void deliver_to_self();
  void send(LinkId link, Message message);
  void reply(RequestId request, Result<Json> result, std::string note = {});
  void reply(std::vector<RequestId>& requests, const Result<Json>& result, const std::string& note = {});
  void emit(const char* kind, Json fields);
  void save(std::string line);
  void log(int level, std::string text);
  std::chrono::milliseconds peer_timeout() const;

  // node_peers.cpp
  void on(const Accepted&);
  void on(const Crowded&);
  void on(const Dialled&);
  void on(const DialFailed&);
  void on(Received&);
  void on(const LinkDown&);
  void receive(LinkId link, const Hello&);
  void receive(LinkId link, const Refused&);
  void receive(LinkId link, Devices&);
  void receive(LinkId link, const Heartbeat& heartbeat);
  void lender_up(LinkId link, const Hello& hello);
  bool hold_rival(LinkId link, const Hello& hello);
  void settle_rivals(NodeId node, bool alive);
  void borrower_up(NodeId node, BorrowingPeer& borrower);
  void close_link(LinkId link, const std::string& why);
  void refuse(LinkId link, const std::string& reason);
  void dial_again(NodeId node, BorrowingPeer& borrower);
  void forget_lender(NodeId node);
  void update_heartbeats();
  void update_heartbeats(LinkId link);
  void end_heartbeats(LinkId link);
  bool sends_heartbeats(LinkId link, const Link& state) const;
  bool expects_heartbeats(LinkId link, const Link& state) const;

  // node_bridges.cpp
  void on(const BridgeChanged&);
  Fabric fabric_to(const LendingPeer& lender) const { return core::fabric_to(view(), lender); }
  void use_bridges();
  std::vector<std::string> bridges() const;

  // node_connecting.cpp
  void command_connect(Command&);
  void command_disconnect(Command&);
  void disconnect_idle(NodeId borrower);

  // node_devices.cpp
  void on(const DeviceProbed&);
  void on(const DeviceOpened&);
  void on(const DeviceClosed&);
  void on(const DeviceVanished&);
  void on(const DeviceAppeared&);
  void on(const DeviceIdentified&);
  void on(const DevicesFound&);
  void on(const DeviceLost&);
  void announce(DeviceId id);
  void announce_all(LinkId link) const;
  void set_state(DeviceId id, OwnDevice& device, DeviceState state, std::string reason = {});
  void open(DeviceId id, OwnDevice& device, bool force = false);
  void probe(DeviceId id, OwnDevice& device);
  void drop(DeviceId id);
  void join(DeviceId id, const std::string& address);
  Result<void> check_identity(OwnDevices::Index index, const Identity& there);
  void note_whereabouts(OwnDevices::Index index, const DeviceProbed& probed);
  void look_for_missing();
  void found(OwnDevices::Index index, const Seen& seen);
  void move(OwnDevices::Index index, const std::string& address);
  void close(DeviceId id, OwnDevice& device);
  OwnDevice* own(DeviceId id);
  std::optional<DeviceId> own_by_address(const std::string& address) const;

  // node_filters.cpp
  void command_filter(Command&);
  void command_scan(Command&);
  void on(const HostScanned&);
  void scan(Scan scan);
  bool store(const Scan& scan);
  void apply_filter(const Scan& scan, const Matches& matches);
  std::string apply(const Scan& scan, const std::set<std::string_view>& others, const std::string& address,
                    RequestId batch);
  std::string take_out(const std::set<std::string_view>& others, DeviceId id, RequestId batch);
  Json add_matches(const Scan& scan, const Matches& matches);
  std::string note_of_removed(const std::vector<FilterRule>& rules, const Matches& matches) const;
  void start_part(RequestId batch, const char* name, const std::string& address);
  bool finish_part(RequestId part, const Result<Json>& result);
  void finish_batch(RequestId batch);

  // node_config_space.cpp
  void command_config_space(Command&);
  void on(ConfigRead&);
  void receive(LinkId link, const ConfigRequest&);
  void receive(LinkId link, ConfigAnswer&);
  void reply_config(RequestId request, DeviceId id, Result<std::string> hex);

  // node_lending.cpp
  void on(const TellClients&);
  void on(const LoanEnded&);
  void on(const UseEnded&);
  void receive(LinkId link, const BorrowRequest&);
  void receive(LinkId link, const ReturnRequest&);
  void receive(LinkId link, const Released&);
  const Share* granted(const LoanId& loan) const;
  const OwnDevice* companion_of_other(const OwnDevice& device, NodeId borrower) const;
  void end_share(DeviceId id, OwnDevice& device, std::uint64_t epoch, std::string reason, bool lost = false);
  void end_shares(DeviceId id, OwnDevice& device, const std::string& reason, bool lost = false);
  void end_shares_of(NodeId borrower, const std::string& reason);
  void forget_returns(NodeId borrower);
  void answer_end(const LoanId& loan, const Share& share);
  bool must_wait(const OwnDevice& device, const BorrowRequest& request) const;
  void retry_borrows(DeviceId id);
  void quarantine(DeviceId id, OwnDevice& device, const std::string& reason);

  // node_borrowing.cpp
  void on(LoanOpened&);
  void on(const LoanClosed&);
  void on(const FabricLost&);
  void on(const UsageChanged&);
  void receive(LinkId link, const Answer&);
  void receive(LinkId link, const TakenBack&);
  void end_as(Loan& loan, LoanEnd how, std::string why);
  void tell_end(LoanId id, Loan& loan);
  void borrow(DeviceId id, Loan loan, RequestId request);
  Result<LinkId> path_to_lender(DeviceId id) const;
  void borrow_answered(const Pending& asked, const Answer&);
  void finish_loan(DeviceId id, const Error& why);
  void close_loan(DeviceId id, Loan& loan, bool orderly);
  void return_loan(DeviceId id, Loan& loan);
  void loans_lost(NodeId lender, const std::string& why);
  auto loans_of(NodeId lender) {
    return std::ranges::subrange(loans_.lower_bound(make_device_id(lender, 0)),
                                 loans_.upper_bound(make_device_id(lender, 0xffff)));
  }
  auto loans_of(NodeId lender) const {
    return std::ranges::subrange(loans_.lower_bound(make_device_id(lender, 0)),
                                 loans_.upper_bound(make_device_id(lender, 0xffff)));
  }
  std::uint64_t expect_answer(Pending pending);
  void answer_is_late(std::uint64_t number, Pending& pending);

  // node_commands.cpp
  Result<DeviceId> find_device(const Json& arguments) const;
  void command_node(Command&);
  void command_add(Command&);
  void added_by_hand(std::uint16_t index, OwnDevice& device);
  void command_remove(Command&);
  void remove(DeviceId id);
  void command_available(Command&);
  void command_unavailable(Command&);
  void command_filters(Command&);
  void command_list(Command&);
  void command_show(Command&);
  void command_borrow(Command&);
  void command_open(Command&);
  void take(Command& command, ControlId owner);
  bool disown(Loan& loan, ControlId owner);
  void command_return(Command&);
  void command_ended(Command&); // node_borrowing.cpp
  void command_status(Command&);
  void command_config(Command&);
  void command_monitor(Command&);

  bool may_say(NodeId about);
  Settings settings_;
  Intent intent_;
  Time now_{};
  std::vector<Effect> effects_;
  std::vector<std::pair<LinkId, Message>> to_self_; ///< sent over the connection to itself, not yet received
  OwnDevices devices_;
  std::set<OwnDevices::Index> missing_;       ///< whose device is not where it was, as far as is known
  bool looking_ = false, look_again_ = false; ///< for those: an answer is outstanding, and what it tells may be too old
  std::map<std::string, BridgeChanged> bridges_; ///< by address
  std::map<NodeId, BorrowingPeer> borrowers_;
  std::map<NodeId, LendingPeer> lenders_;
  std::map<NodeId, Rival> rivals_; ///< by the id that they claim
  std::map<LinkId, Link> links_;
  std::set<LinkId> beating_; ///< heartbeats are sent there, to all at once: their timer has key 0
  std::set<NodeId> changed_; ///< links to and from these, or loans: their heartbeats are looked at after the event
  std::map<DeviceId, Loan> loans_;                 ///< those of one lender lie side by side
  std::deque<std::pair<LoanId, Ended>> ended_;     ///< the latest
  std::set<std::pair<ControlId, DeviceId>> taken_; ///< what programs took, or wait for; the loan may have ended since
  std::map<std::uint64_t, Pending> pending_;       ///< requests to lenders, by number
  std::vector<Queued> queue_;                      ///< of borrowers
  std::map<RequestId, Scan> scans_;
  std::map<RequestId, Batch> batches_;
  std::map<RequestId, RequestId> parts_; ///< to their batch
  std::map<RequestId, PeerRead> peer_reads_;
  std::map<RequestId, DeviceId> own_reads_;
  RequestId next_request_ = first_own_request;
  std::string unsaved_;                  ///< why; empty: all is saved
  bool stopping_ = false, idle_ = false; ///< the latter: told
  std::uint64_t next_number_ = 1, next_epoch_ = settings_.first_epoch, next_event_ = 1;
  std::map<std::string, std::uint64_t> counters_;
  std::optional<NodeId> speaker_; ///< whose doing the event at hand is; 0: somebody who has not said who it is
  std::map<NodeId, Talk> talk_;
};

} // namespace smartio::core
