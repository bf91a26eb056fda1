// What surrounds a node's decisions: performs its effects late, in any order or wrongly, and checks after each event
// what must hold whoever says what.
#pragma once

#include "node.hpp"
#include "script.hpp"

#include <cstdlib>
#include <map>
#include <set>
#include <type_traits>

namespace smartio::test {

using namespace core;

inline void require(bool holds) {
  if (!holds) std::abort();
}

class World {
public:
  static constexpr NodeId self{8};

  explicit World(Intent intent = {})
      : node_({.node = self,
               .boot_id = "here",
               .fabric_token = std::string(32, 'f'),
               .nonce = std::string(64, 'a'),
               .nodes = {{NodeId{9}, "h:9"}},
               .bridges = {"0000:17:00.0"}},
              std::move(intent)) {
    on(Started{});
  }

  void on(Event event) {
    note(event);
    for (auto& effect : node_.handle(std::move(event), Time{})) std::visit([this](auto& e) { perform(e); }, effect);
    check();
  }
  void command(std::string name, Json arguments, ControlId from = 0) {
    requests_.insert(++last_request_);
    on(Command{last_request_, from, std::move(name), std::move(arguments)});
  }
  void accept() {
    const auto link = next_link_++;
    links_[link];
    on(Accepted{link, std::string(64, 'b')});
  }
  void dialled(NodeId node) {
    const auto link = next_link_++;
    links_[link].dialled = true;
    on(Dialled{node, link, std::string(64, 'c')});
  }
  void receive(LinkId link, Message message) {
    if (links_.contains(link)) on(Received{link, std::move(message)});
  }
  void link_down(LinkId link) {
    if (links_.erase(link) != 0) on(LinkDown{link, "cut"});
  }

  /// What came of all that is under way, and every link down: nobody waits any more.
  void finish();
  void restart() {
    finish();
    const auto state = state_;
    *this = World(parse_intent(state, self).value());
  }

  /// What an effect started and no event has ended yet.
  std::vector<DeviceId> probes, opens, closes;
  unsigned finds = 0;
  std::vector<NodeId> dials;
  std::vector<LoanId> ends, loan_opens, loan_closes;
  std::vector<ScanHost> scans;
  std::vector<RequestId> reads;
  std::set<Timer> timers;
  std::map<LinkId, std::vector<std::uint64_t>> asked; ///< numbers of what the node asked
  std::vector<LoanId> loans;                          ///< ever granted to others, or to the node

  LinkId link(Line& line) const {
    const auto place = line.next();
    return links_.empty() ? place : std::next(links_.begin(), static_cast<long>(place % links_.size()))->first;
  }
  /// Takes one of those under way; nullopt where there is none.
  template <class T> static std::optional<T> take(std::vector<T>& from, Line& line) {
    if (from.empty()) return std::nullopt;
    const auto place = from.begin() + line.below<long>(from.size());
    auto taken = std::move(*place);
    from.erase(place);
    return taken;
  }

private:
  struct Link {
    bool dialled = false;
    NodeId peer{};
    std::multiset<std::uint64_t> unanswered{}; ///< numbers of what the peer asked
    std::map<std::uint64_t, BorrowRequest> borrows{};
  };
  struct Grant {
    NodeId borrower;
    bool shared;
  };

  // What events mean to the checks.
  template <class T> void note(const T&) {}
  void note(Event& event) {
    if (auto* received = std::get_if<Received>(&event)) note_message(received->link, received->message);
    if (const auto* ended = std::get_if<LoanEnded>(&event)) grants_.erase(ended->loan);
    if (const auto* fired = std::get_if<TimerFired>(&event)) timers.erase(fired->timer);
  }
  void note_message(LinkId link, const Message& message) {
    auto& state = links_.at(link);
    if (const auto* hello = std::get_if<Hello>(&message); hello != nullptr && state.peer == NodeId{})
      state.peer = hello->node;
    if (const auto* borrow = std::get_if<BorrowRequest>(&message)) state.borrows[borrow->number] = *borrow;
    std::visit(
        [&state](const auto& m) {
          using T = std::decay_t<decltype(m)>;
          if constexpr (std::is_same_v<T, BorrowRequest> || std::is_same_v<T, ReturnRequest> ||
                        std::is_same_v<T, ConfigRequest>)
            state.unanswered.insert(m.number);
        },
        message);
  }

  void perform(const Reply& reply) {
    require(requests_.erase(reply.request) == 1); // asked, and not answered before
    if (reply.result) reply.result->dump();       // in UTF-8
  }
  void perform(const Emit& emit) { emit.event.dump(); }
  void perform(const Save& save) {
    state_ = save.line.empty() ? node_.state() : state_ + save.line;
    require(parse_intent(state_, self).has_value());
  }
  void perform(const Dial& dial) {
    require(!dial.address.empty());
    dials.push_back(dial.node);
  }
  void perform(const Send& send) {
    const auto link = links_.find(send.link);
    require(link != links_.end());
    require(decode(encode(send.message)) == send.message); // the peer understands it
    std::visit([this, &link](const auto& message) { sent(link->first, link->second, message); }, send.message);
  }
  void sent(LinkId, Link&, const auto&) {}
  void sent(LinkId link, Link&, const BorrowRequest& asks) { asked[link].push_back(asks.number); }
  void sent(LinkId link, Link&, const ReturnRequest& asks) { asked[link].push_back(asks.number); }
  void sent(LinkId link, Link&, const ConfigRequest& asks) { asked[link].push_back(asks.number); }
  void sent(LinkId, Link& link, const ConfigAnswer& answer) { answered(link, answer.number); }
  void sent(LinkId, Link& link, const Answer& answer) {
    answered(link, answer.number);
    const auto borrow = link.borrows.extract(answer.number);
    if (borrow.empty() || answer.code != Errc{} || lends({borrow.mapped().device, answer.epoch})) return;
    grant({borrow.mapped().device, answer.epoch}, {link.peer, borrow.mapped().shared});
  }
  static void answered(Link& link, std::uint64_t number) {
    const auto found = link.unanswered.find(number);
    require(found != link.unanswered.end()); // it was asked, and has had no answer yet
    link.unanswered.erase(found);
  }
  bool lends(const LoanId& loan) const { return grants_.contains(loan); }
  /// Nobody has a device together with somebody, unless both want that.
  void grant(const LoanId& loan, const Grant& grant) {
    require(lender_of(loan.device) == self);
    for (const auto& [other, had] : grants_) require(other.device != loan.device || (had.shared && grant.shared));
    grants_[loan] = grant;
    loans.push_back(loan);
  }
  void perform(const Drop& drop) {
    links_.erase(drop.link);
    asked.erase(drop.link);
  }
  void perform(const Arm& arm) { timers.insert(arm.timer); }
  void perform(const Disarm& disarm) { timers.erase(disarm.timer); }
  void perform(const ProbeDevice& probe) { start(probes, probe.device); }
  void perform(const FindDevices&) { ++finds; }
  void perform(const OpenDevice& open) { start(opens, open.device); }
  void perform(const CloseDevice& close) {
    for (const auto& [loan, grant] : grants_) require(loan.device != close.device);
    start(closes, close.device);
  }
  void perform(const ForgetDevice& forget) {
    for (const auto& [loan, grant] : grants_) require(loan.device != forget.device);
    for (const auto& under_way : {probes, opens, closes})
      require(std::ranges::find(under_way, forget.device) == under_way.end());
  }
  static void start(std::vector<DeviceId>& under_way, DeviceId device) {
    require(lender_of(device) == self && std::ranges::find(under_way, device) == under_way.end());
    under_way.push_back(device);
  }
  void perform(const ScanHost& scan) { scans.push_back(scan); }
  void perform(const ReadConfig& read) {
    require(lender_of(read.device) == self);
    reads.push_back(read.request);
  }
  void perform(const EndLoan& end) {
    require(lender_of(end.loan.device) == self && ended_.insert(end.loan).second); // once
    ends.push_back(end.loan);
  }
  void perform(const ClientsReleased& released) { require(lender_of(released.loan.device) == self); }
  void perform(const OpenLoan& open) {
    require(open.link < first_link || links_.contains(open.link));
    if (lender_of(open.loan.device) == self) grant(open.loan, {self, open.shared});
    loans.push_back(open.loan);
    loan_opens.push_back(open.loan);
  }
  void perform(const CloseLoan& close) { loan_closes.push_back(close.loan); }
  void perform(const UseBridges&) {}
  void perform(const Idle&) { require(grants_.empty()); }
  void perform(const Log&) {}

  /// Between events.
  void check() const {
    for (const auto& [loan, grant] : grants_)
      for (const auto& [id, link] : links_)
        if (node_.admits(loan, id)) require(link.peer == grant.borrower && !ended_.contains(loan));
    for (const auto& timer : timers) // none belongs to a link that is gone
      if (timer.kind == Timer::Kind::hello || timer.kind == Timer::Kind::silence)
        require(links_.contains(timer.key));
      else if (timer.kind == Timer::Kind::heartbeat)
        require(!links_.empty());
  }

  Node node_;
  RequestId last_request_ = 0;
  LinkId next_link_ = first_link;
  std::set<RequestId> requests_; ///< without an answer
  std::map<LinkId, Link> links_; ///< open
  std::map<LoanId, Grant> grants_;
  std::set<LoanId> ended_; ///< their end was begun
  std::string state_;
};

inline void World::finish() {
  node_.status_document().dump(); // in UTF-8
  node_.list_document().dump();
  const auto none = std::unexpected(Error{make_error_code(Errc::peer_down), "over"});
  while (!links_.empty()) link_down(links_.begin()->first);
  Line first("");
  for (bool more = true; more;) {
    more = false;
    const auto each = [&more, &first](auto& under_way, auto done) {
      for (auto one = take(under_way, first); one; one = take(under_way, first)) {
        more = true;
        done(*one);
      }
    };
    each(dials, [&](NodeId node) { on(DialFailed{node, "over"}); });
    each(probes, [&](DeviceId id) { on(DeviceProbed{id, none}); });
    each(opens, [&](DeviceId id) { on(DeviceOpened{id, none}); });
    each(closes, [&](DeviceId id) { on(DeviceClosed{id, std::nullopt, {}}); });
    each(scans, [&](const ScanHost& scan) { on(HostScanned{scan.request, none}); });
    each(reads, [&](RequestId read) { on(ConfigRead{read, none}); });
    each(ends, [&](const LoanId& loan) { on(LoanEnded{loan, std::nullopt}); });
    each(loan_opens, [&](const LoanId& loan) { on(LoanOpened{loan, none}); });
    each(loan_closes, [&](const LoanId& loan) { on(LoanClosed{loan}); });
  }
  require(requests_.empty());
  for (const auto& timer : timers) require(timer.kind == Timer::Kind::redial);
}

} // namespace smartio::test
