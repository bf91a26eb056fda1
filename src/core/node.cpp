// Dispatch: events in, effects out; timers; what the other node_*.cpp files share.
#include "node.hpp"

#include "text.hpp"
#include "utc.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace smartio::core {

namespace {
constexpr unsigned most_lines = 200; ///< of one peer's doing, in
constexpr std::chrono::seconds talk_interval{10};

template <class T> const LinkId* link_of(const Event& event) {
  const auto* found = std::get_if<T>(&event);
  return found == nullptr ? nullptr : &found->link;
}
} // namespace

std::vector<Effect> Node::handle(Event event, Time now) {
  now_ = now;
  speaker_.reset();
  for (const auto* link : {link_of<Received>(event), link_of<LinkDown>(event)})
    if (const auto found = link == nullptr ? links_.end() : links_.find(*link); found != links_.end())
      speaker_ = found->second.peer;
  if (std::holds_alternative<Crowded>(event)) speaker_ = NodeId{};
  std::visit([this](auto& e) { on(e); }, event);
  deliver_to_self();
  update_heartbeats();
  stop_when_idle();
  return std::exchange(effects_, {});
}

void Node::on(const Started&) {
  save(""); // a state directory that cannot be written to shows now
  borrowers_[settings_.node] = BorrowingPeer{.address = {}, .link = self_as_lender};
  links_[self_as_lender] = Link{.dialled = true, .wanted = settings_.node};
  links_[self_as_borrower] = Link{.dialled = false};
  const Hello hello{.node = settings_.node,
                    .to = settings_.node,
                    .boot_id = settings_.boot_id,
                    .fabric_token = settings_.fabric_token,
                    .nonce = settings_.nonce};
  links_[self_as_lender].nonce = links_[self_as_borrower].nonce = settings_.nonce;
  send(self_as_lender, hello);
  send(self_as_borrower, hello);
  for (const auto& [index, wanted] : intent_.devices) {
    auto& device = devices_.add(index, wanted.address);
    const auto id = make_device_id(settings_.node, index);
    device.without_reset = wanted.without_reset;
    probe(id, device);
  }
  scan({.purpose = ScanFor::appeared, .rules = {}});
  use_bridges();
  for (const auto& [node, address] : intent_.connections) {
    borrowers_[node] = BorrowingPeer{.address = address};
    effects_.push_back(Dial{node, address});
  }
}

void Node::on(Command& command) {
  using Handler = void (Node::*)(Command&);
  static const std::map<std::string_view, Handler> handlers{{"node", &Node::command_node},
                                                            {"connect", &Node::command_connect},
                                                            {"disconnect", &Node::command_disconnect},
                                                            {"add", &Node::command_add},
                                                            {"remove", &Node::command_remove},
                                                            {"available", &Node::command_available},
                                                            {"unavailable", &Node::command_unavailable},
                                                            {"filters", &Node::command_filters},
                                                            {"list", &Node::command_list},
                                                            {"show", &Node::command_show},
                                                            {"borrow", &Node::command_borrow},
                                                            {"open", &Node::command_open},
                                                            {"ended", &Node::command_ended},
                                                            {"return", &Node::command_return},
                                                            {"status", &Node::command_status},
                                                            {"config", &Node::command_config},
                                                            {"scan", &Node::command_scan},
                                                            {"add-filter", &Node::command_filter},
                                                            {"available-filter", &Node::command_filter},
                                                            {"unavailable-filter", &Node::command_filter},
                                                            {"remove-filter", &Node::command_filter},
                                                            {"config-space", &Node::command_config_space},
                                                            {"monitor", &Node::command_monitor}};
  const auto handler = handlers.find(command.name);
  if (handler == handlers.end())
    return reply(command.request, fail(Errc::bad_request, "this node knows no command '{}'", command.name));
  (this->*handler->second)(command);
}

void Node::on(const ControlClosed& closed) {
  const auto first = taken_.lower_bound({closed.control, DeviceId{0}}),
             end = taken_.upper_bound({closed.control, DeviceId{UINT32_MAX}});
  const std::set taken(first, end);
  taken_.erase(first, end);
  for (const auto& [control, id] : taken) {
    const auto found = loans_.find(id);
    if (found == loans_.end()) continue;
    auto& loan = found->second;
    const auto gone =
        std::ranges::stable_partition(loan.next, [&closed](const auto& next) { return next.second != closed.control; });
    for (const auto& [command, owner] : gone) reply(command.request, fail(Errc::revoked, "its program has ended"));
    loan.next.erase(gone.begin(), gone.end());
    if (!disown(loan, closed.control)) continue;
    end_as(loan, LoanEnd::returned, "its program let it go");
    return_loan(id, loan);
  }
}

void Node::on(const StateSaved& saved) {
  unsaved_ = saved.error ? to_string(*saved.error) : "";
  if (unsaved_.empty()) return emit("state-saved", Json::object());
  emit("state-unsaved", {{"reason", unsaved_}});
}

void Node::on(const Stopping&) {
  const auto why = fmt::format("node {} is stopping", number(settings_.node));
  stopping_ = true;
  for (auto& [id, loan] : loans_) {
    end_as(loan, LoanEnd::node_lost, why);
    return_loan(id, loan);
  }
  for (auto& [index, device] : devices_) end_shares(make_device_id(settings_.node, index), device, why);
}

void Node::stop_when_idle() {
  if (!stopping_ || idle_ || !loans_.empty() || devices_.any_lent()) return;
  effects_.push_back(Idle{});
  idle_ = true;
}

void Node::on(const TimerFired& fired) {
  const auto key = fired.timer.key;
  switch (fired.timer.kind) {
  case Timer::Kind::redial:
    if (const auto found = borrowers_.find(static_cast<NodeId>(key)); found != borrowers_.end())
      effects_.push_back(Dial{found->first, found->second.address});
    break;
  case Timer::Kind::hello:
    if (const auto link = links_.find(key); link != links_.end() && link->second.peer == NodeId{})
      close_link(key, "it sent no hello");
    break;
  case Timer::Kind::silence:
    if (const auto link = links_.find(key); link == links_.end() || !link->second.expecting) break;
    if (fired.late > heartbeat_interval) // what was sent meanwhile has not been read yet
      effects_.push_back(Arm{fired.timer, peer_timeout()});
    else
      close_link(key, "it fell silent");
    break;
  case Timer::Kind::heartbeat:
    for (const auto link : beating_) send(link, Heartbeat{});
    if (!beating_.empty()) effects_.push_back(Arm{fired.timer, heartbeat_interval});
    break;
  case Timer::Kind::answer:
    if (const auto found = pending_.find(key); found != pending_.end()) answer_is_late(key, found->second);
    break;
  case Timer::Kind::rival: settle_rivals(static_cast<NodeId>(key), false); break;
  }
}

void Node::deliver_to_self() {
  while (!to_self_.empty()) {
    auto [link, message] = std::move(to_self_.front());
    to_self_.erase(to_self_.begin());
    Received received{link == self_as_lender ? self_as_borrower : self_as_lender, std::move(message)};
    on(received);
  }
}

void Node::send(LinkId link, Message message) {
  if (link < first_link)
    to_self_.emplace_back(link, std::move(message));
  else
    effects_.push_back(Send{link, std::move(message)});
}

void Node::reply(RequestId request, Result<Json> result, std::string note) {
  if (request >= first_own_request && finish_part(request, result)) return;
  effects_.push_back(Reply{request, std::move(result), std::move(note)});
}

void Node::reply(std::vector<RequestId>& requests, const Result<Json>& result, const std::string& note) {
  for (const auto request : std::exchange(requests, {})) reply(request, result, note);
}

void Node::emit(const char* kind, Json fields) {
  fields["event"] = kind;
  fields["seq"] = next_event_++;
  fields["time"] = utc(now_);
  effects_.push_back(Emit{std::move(fields)});
}

void Node::save(std::string line) { effects_.push_back(Save{std::move(line)}); }

/// Texts of peers are among what is logged: they must not look like other lines.
void Node::log(int level, std::string text) {
  if (speaker_ && !may_say(*speaker_)) return;
  effects_.push_back(Log{level, printable(std::move(text))});
}

/// Nobody fills the log by what it does over and over.
bool Node::may_say(NodeId about) {
  auto& talk = talk_[about];
  if (now_ >= talk.since + talk_interval || now_ < talk.since) {
    const auto left_out = std::exchange(talk, Talk{.since = now_}).left_out;
    const auto who = about == NodeId{} ? "unknown peers" : fmt::format("node {}", number(about));
    if (left_out != 0) effects_.push_back(Log{4, fmt::format("{} lines about {} were left out", left_out, who)});
  }
  if (++talk.lines <= most_lines) return true;
  ++talk.left_out;
  return false;
}

std::chrono::milliseconds Node::peer_timeout() const {
  const auto option = intent_.options.find("peer-timeout");
  if (option == intent_.options.end()) return settings_.peer_timeout;
  return std::chrono::milliseconds{parse_number(option->second).value_or(3000)};
}

} // namespace smartio::core
