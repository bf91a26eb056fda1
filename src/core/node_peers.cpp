// Connections to other nodes: hello, silence, dialling again, and the list of a lender's devices.
#include "node.hpp"

#include <algorithm>

namespace smartio::core {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds hello_timeout{4000};
constexpr milliseconds longest_pause{5000};
constexpr milliseconds rival_timeout{2000}; // below hello_timeout: a lender that started again waits so long

} // namespace

void Node::on(const Accepted& accepted) {
  links_[accepted.link] = Link{.dialled = false, .nonce = accepted.nonce, .from = accepted.from};
  effects_.push_back(Arm{{Timer::Kind::hello, accepted.link}, hello_timeout});
}

void Node::on(const Dialled& dialled) {
  const auto found = borrowers_.find(dialled.node);
  if (found == borrowers_.end() || found->second.link != 0 || !found->second.leavers.empty()) {
    effects_.push_back(Drop{dialled.link});
    return;
  }
  found->second.link = dialled.link;
  links_[dialled.link] =
      Link{.dialled = true, .wanted = dialled.node, .nonce = dialled.nonce, .from = found->second.address};
  effects_.push_back(Arm{{Timer::Kind::hello, dialled.link}, hello_timeout});
  send(dialled.link, Hello{.node = settings_.node,
                           .to = dialled.node,
                           .boot_id = settings_.boot_id,
                           .fabric_token = settings_.fabric_token,
                           .nonce = dialled.nonce});
}

void Node::on(const DialFailed& failed) {
  const auto found = borrowers_.find(failed.node);
  if (found == borrowers_.end() || found->second.link != 0) return;
  auto& borrower = found->second;
  const bool kept = intent_.connections.contains(failed.node);
  reply(borrower.waiting, fail(Errc::peer_down, "node {} cannot be reached at {}: {}", number(failed.node),
                               borrower.address, failed.why));
  if (kept) return dial_again(failed.node, borrower);
  if (!borrower.leavers.empty()) return disconnect_idle(failed.node);
  borrowers_.erase(found);
}

void Node::dial_again(NodeId node, BorrowingPeer& borrower) {
  const auto pause = milliseconds{100} * (1U << std::min(borrower.attempts++, 6U));
  effects_.push_back(Arm{{Timer::Kind::redial, number(node)}, std::min<milliseconds>(pause, longest_pause)});
}

void Node::on(Received& received) {
  const auto found = links_.find(received.link);
  if (found == links_.end()) return;
  const bool is_hello = std::holds_alternative<Hello>(received.message);
  const bool is_refusal = std::holds_alternative<Refused>(received.message);
  const bool early = found->second.peer == NodeId{};
  if (early ? (!is_hello || found->second.rival) && !is_refusal : is_hello)
    return close_link(received.link, "it spoke out of turn");
  if (found->second.expecting) effects_.push_back(Arm{{Timer::Kind::silence, received.link}, peer_timeout()});
  if (!early && !found->second.dialled) settle_rivals(found->second.peer, true);
  std::visit([this, &received](auto& message) { receive(received.link, message); }, received.message);
}

/// The oldest of those who offer and lend nothing gives up its place; a lender that was one of them dials again.
void Node::on(const Crowded&) {
  for (const auto& [link, state] : links_) {
    const auto peer = state.peer;
    const auto lender = lenders_.find(peer);
    const bool offers = lender != lenders_.end() && lender->second.link == link && !lender->second.devices.empty();
    if (link < first_link || state.dialled || offers || !loans_of(peer).empty()) continue;
    close_link(link, "its place was needed, and it offered nothing");
    return forget_lender(peer);
  }
}

void Node::receive(LinkId link, const Hello& hello) {
  auto& state = links_[link];
  if (hello.version != protocol_version)
    return refuse(link, fmt::format("node {} speaks version {} of the protocol, node {} version {}", number(hello.node),
                                    hello.version, number(settings_.node), protocol_version));
  if (hello.to != NodeId{} && hello.to != settings_.node)
    return refuse(link, fmt::format("this is node {}, not node {}", number(settings_.node), number(hello.to)));
  if (hello.node == settings_.node && link >= first_link)
    return refuse(link, fmt::format("node id {} is taken: two nodes have it", number(hello.node)));
  effects_.push_back(Disarm{{Timer::Kind::hello, link}});
  if (state.dialled) {
    const auto found = borrowers_.find(state.wanted);
    if (found == borrowers_.end() || found->second.link != link) return close_link(link, "it is not wanted any more");
    if (found->first != hello.node)
      return refuse(
          link, fmt::format("node {} answered where node {} was expected", number(hello.node), number(found->first)));
    state.peer = hello.node;
    changed_.insert(hello.node);
    found->second.boot_id = hello.boot_id;
    return borrower_up(found->first, found->second);
  }
  if (hold_rival(link, hello)) return;
  lender_up(link, hello);
}

void Node::lender_up(LinkId link, const Hello& hello) {
  auto& state = links_[link];
  state.peer = hello.node;
  changed_.insert(hello.node);
  auto& lender = lenders_[hello.node];
  lender = LendingPeer{.link = link, .hello = hello, .since = now_};
  if (link >= first_link) {
    send(link, Hello{.node = settings_.node, .to = hello.node, .boot_id = settings_.boot_id, .nonce = state.nonce});
    emit("peer-up", {{"node", number(hello.node)}, {"role", "lender"}});
    log(6, fmt::format("node {} lends to this node", number(hello.node)));
  }
}

/// Another connection has this lender's id. If that is alive the newcomer is a second node of that id, or what is left
/// of an old one; else it is the lender itself, which started again. The old connection is asked, and answers at once.
bool Node::hold_rival(LinkId link, const Hello& hello) {
  const auto old = lenders_.find(hello.node);
  if (old == lenders_.end() || old->second.link == 0) return false;
  if (!rivals_.try_emplace(hello.node, Rival{link, hello}).second) {
    refuse(link, fmt::format("more than two connections claim to be node {}", number(hello.node)));
    return true;
  }
  links_[link].rival = true;
  send(old->second.link, Heartbeat{.asks = true});
  effects_.push_back(Arm{{Timer::Kind::rival, number(hello.node)}, rival_timeout});
  return true;
}

/// The lender was heard, or has gone.
void Node::settle_rivals(NodeId node, bool alive) {
  const auto found = rivals_.extract(node);
  if (found.empty()) return;
  const auto [link, hello] = found.mapped();
  links_[link].rival = false;
  effects_.push_back(Disarm{{Timer::Kind::rival, number(node)}});
  const auto lender = lenders_.find(node);
  const auto old = lender == lenders_.end() ? LinkId{0} : lender->second.link;
  if (alive && old != 0) {
    const auto why = fmt::format("node id {} is taken: a node at {} and one at {} have it", number(node),
                                 links_[old].from, links_[link].from);
    return refuse(link, why);
  }
  if (old != 0) close_link(old, "it fell silent, and connected anew");
  lender_up(link, hello);
}

void Node::borrower_up(NodeId node, BorrowingPeer& borrower) {
  borrower.up = true;
  borrower.attempts = 0;
  borrower.since = now_;
  if (node != settings_.node) {
    if (borrower.leavers.empty() && intent_.connections[node] != borrower.address) {
      intent_.connections[node] = borrower.address;
      save(connection_line(intent_, node));
    }
    emit("peer-up", {{"node", number(node)}, {"role", "borrower"}});
    log(6, fmt::format("connected to node {} at {}", number(node), borrower.address));
  }
  Devices all;
  for (const auto& [index, device] : devices_) {
    if (device.asked == Asked::probe && device.identity.name.empty()) continue;
    all.changed.push_back(entry_of(make_device_id(settings_.node, index), device));
    if (all.changed.size() == devices_per_message) send(borrower.link, std::exchange(all, {}));
  }
  if (!all.changed.empty()) send(borrower.link, std::move(all));
  reply(borrower.waiting, Json{{"node", number(node)}, {"address", borrower.address}, {"state", "up"}});
}

void Node::refuse(LinkId link, const std::string& reason) {
  send(link, Refused{reason});
  close_link(link, reason);
}

void Node::receive(LinkId link, const Refused& refused) {
  const auto peer = links_[link].peer;
  const bool lends = !links_[link].dialled;
  close_link(link, refused.reason);
  if (lends && peer != NodeId{}) forget_lender(peer);
}

void Node::forget_lender(NodeId node) {
  const auto found = lenders_.find(node);
  if (found != lenders_.end() && found->second.link == 0) lenders_.erase(found);
}

void Node::receive(LinkId link, Devices& devices) {
  const auto found = lenders_.find(links_[link].peer);
  if (found == lenders_.end() || found->second.link != link)
    return close_link(link, "it sent devices but does not lend");
  for (auto& device : devices.changed) {
    if (lender_of(device.id) != found->first) return close_link(link, "it offered a device of another node");
    if (found->second.devices.size() >= 65536 && !found->second.devices.contains(device.id))
      return close_link(link, "it offered too many devices");
    found->second.devices[device.id] = std::move(device);
  }
  for (const auto id : devices.removed) found->second.devices.erase(id);
}

void Node::on(const LinkDown& down) { close_link(down.link, down.why); }

void Node::close_link(LinkId link, const std::string& why) {
  const auto found = links_.find(link);
  if (found == links_.end() || link < first_link) return;
  const Link state = found->second;
  links_.erase(found);
  effects_.push_back(Drop{link});
  for (const auto kind : {Timer::Kind::hello, Timer::Kind::silence}) effects_.push_back(Disarm{{kind, link}});
  end_heartbeats(link);
  if (state.rival) std::erase_if(rivals_, [link](const auto& rival) { return rival.second.link == link; });
  std::erase_if(queue_, [link](const Queued& queued) { return queued.link == link; });
  if (state.dialled) {
    const auto peer = borrowers_.find(state.wanted);
    if (peer == borrowers_.end() || peer->second.link != link) return;
    const bool was_up = peer->second.up;
    peer->second.link = 0;
    peer->second.up = false;
    if (was_up) {
      emit("peer-down", {{"node", number(peer->first)}, {"role", "borrower"}, {"reason", why}});
      log(4, fmt::format("connection to node {} lost: {}", number(peer->first), why));
      end_shares_of(peer->first, fmt::format("the connection to node {} was lost", number(peer->first)));
      forget_returns(peer->first);
    }
    return on(DialFailed{peer->first, why});
  }
  if (state.peer == NodeId{}) return log(6, fmt::format("a connection was refused: {}", why));
  const auto lender = lenders_.find(state.peer);
  if (lender == lenders_.end() || lender->second.link != link) return;
  lender->second.link = 0;
  lender->second.since = now_;
  emit("peer-down", {{"node", number(state.peer)}, {"role", "lender"}, {"reason", why}});
  log(4, fmt::format("connection from node {} lost: {}", number(state.peer), why));
  loans_lost(state.peer, fmt::format("the connection to node {} was lost: {}", number(state.peer), why));
  settle_rivals(state.peer, false);
}

void Node::receive(LinkId link, const Heartbeat& heartbeat) {
  if (heartbeat.asks) send(link, Heartbeat{});
}

/// As long as a loan is there, however it ends: the other side must not take an end that lasts for silence.
bool Node::sends_heartbeats(LinkId link, const Link& state) const {
  if (state.dialled) return !devices_.lent_to(state.peer).empty();
  return expects_heartbeats(link, state);
}

/// A borrower is done with a loan before the lender is.
bool Node::expects_heartbeats(LinkId link, const Link& state) const {
  if (state.dialled)
    return std::ranges::any_of(devices_.lent_to(state.peer), [this](const auto& lent) {
      return !devices_.find(lent.first)->shares.at(lent.second).ending;
    });
  const auto lender = lenders_.find(state.peer);
  return lender != lenders_.end() && lender->second.link == link &&
         std::ranges::any_of(loans_of(state.peer),
                             [](const auto& loan) { return loan.second.phase != Loan::Phase::requested; });
}

void Node::update_heartbeats() {
  for (const auto node : std::exchange(changed_, {})) {
    if (const auto borrower = borrowers_.find(node); borrower != borrowers_.end())
      update_heartbeats(borrower->second.link);
    if (const auto lender = lenders_.find(node); lender != lenders_.end()) update_heartbeats(lender->second.link);
  }
}

void Node::update_heartbeats(LinkId link) {
  const auto found = links_.find(link);
  if (found == links_.end() || link < first_link || found->second.peer == NodeId{}) return;
  auto& state = found->second;
  const bool beats = sends_heartbeats(link, state), expects = expects_heartbeats(link, state);
  if (beats && beating_.empty()) effects_.push_back(Arm{{Timer::Kind::heartbeat, 0}, heartbeat_interval});
  if (beats && beating_.insert(link).second) send(link, Heartbeat{});
  if (!beats) end_heartbeats(link);
  if (expects && !state.expecting) effects_.push_back(Arm{{Timer::Kind::silence, link}, peer_timeout()});
  if (!expects && state.expecting) effects_.push_back(Disarm{{Timer::Kind::silence, link}});
  state.expecting = expects;
}

void Node::end_heartbeats(LinkId link) {
  if (beating_.erase(link) != 0 && beating_.empty()) effects_.push_back(Disarm{{Timer::Kind::heartbeat, 0}});
}

} // namespace smartio::core
