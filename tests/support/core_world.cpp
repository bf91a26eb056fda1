// The world's hosts: starting and crashing, connections, timers, what is answered; and what is at rest in the end.
#include "core_world.hpp"

namespace smartio::core::test {

World::World(std::uint64_t seed, std::vector<std::pair<unsigned, std::string>> nodes) : dice(seed) {
  for (auto& [id, boot_id] : nodes) hosts.push_back({.id = NodeId(id), .boot_id = std::move(boot_id), .node = {}});
  for (unsigned host = 0; host < hosts.size(); ++host) start(host);
}

unsigned World::host_of(NodeId id) const {
  for (unsigned host = 0; host < hosts.size(); ++host)
    if (hosts[host].id == id) return host;
  return 0;
}

void World::start(unsigned host) {
  auto& h = hosts[host];
  Intent intent;
  if (!h.saved.empty()) {
    auto read = parse_intent(h.saved, h.id);
    if (read)
      intent = std::move(*read);
    else
      fault("a state file is not read back: " + to_string(read.error()));
  }
  h.node = std::make_unique<Node>(Settings{.node = h.id,
                                           .boot_id = h.boot_id,
                                           .fabric_token = std::string(32, 'f'),
                                           .nonce = nonce_of(1'000'000 * ++h.life + number(h.id)),
                                           .bridges = {},
                                           .first_epoch = 1'000'000 * h.life},
                                  std::move(intent));
  tell(host, Started{});
}

/// As after SIGKILL: the kernel closes everything.
void World::crash(unsigned host) {
  auto& h = hosts[host];
  check_saved(h);
  h.node.reset();
  ++h.life;
  for (const auto& [timer, key] : std::exchange(h.timers, {})) clock.forget(key);
  for (const auto& [loan, socket] : std::exchange(h.sockets, {})) detach(host, loan);
  for (const auto& [id, lent] : std::exchange(h.devices, {}))
    for (const auto& [epoch, user] : lent.users)
      if (user.host < hosts.size())
        later(user.host, dice.within(50), [loan = LoanId{id, epoch}] { return FabricLost{loan, "it crashed"}; });
  h.requests.clear();
  for (const auto& [link, index] : std::map(h.links)) cut(index);
}

void World::tell(unsigned host, Event event) {
  auto& h = hosts[host];
  if (!h.node) return;
  // A node is a value: what is made of a copy of it goes on as it would have.
  if (++events % 64 == 0) h.node = std::make_unique<Node>(*h.node);
  auto effects = h.node->handle(std::move(event), Time{} + clock.now);
  for (auto& effect : effects) std::visit([this, host](auto& e) { on(host, e); }, effect);
}

void World::on(unsigned host, Save& e) {
  auto& h = hosts[host];
  if (e.line.empty())
    h.saved = h.node->state();
  else
    h.saved += e.line;
}

/// What is read back after a crash is what the node means to keep.
void World::check_saved(const Host& host) {
  if (!host.node) return;
  const auto read = parse_intent(host.saved, host.id);
  if (!read || encode(*read, host.id) != host.node->state()) fault("a state file holds something else than its node");
}

void World::later(unsigned host, milliseconds delay, std::function<Event()> event) {
  clock.after(delay, [this, host, life = hosts[host].life, event = std::move(event)] {
    if (hosts[host].life == life) tell(host, event());
  });
}

void World::command(unsigned host, const char* name, Json arguments, ControlId from) {
  if (!hosts[host].node) return;
  hosts[host].requests.insert(next_request_);
  tell(host, Command{next_request_++, from, name, std::move(arguments)});
}

void World::on(unsigned host, Reply& e) {
  if (hosts[host].requests.erase(e.request) == 0) fault("a command was answered twice");
}

/// Honest nodes never offend each other.
void World::on(unsigned host, Emit& e) {
  if (e.event["event"] != "peer-down") return;
  const auto reason = e.event["reason"].get<std::string>();
  for (const char* offence : {"out of turn", "not asked", "does not lend", "no borrower", "did not lend", "offered"})
    if (reason.find(offence) != std::string::npos)
      fault(fmt::format("node {} cut an honest peer off: {}", number(hosts[host].id), reason));
}

void World::on(unsigned host, Arm& e) {
  auto& timers = hosts[host].timers;
  if (const auto old = timers.find(e.timer); old != timers.end()) clock.forget(old->second);
  timers[e.timer] = clock.after(e.after, [this, host, timer = e.timer] {
    hosts[host].timers.erase(timer);
    tell(host, TimerFired{timer});
  });
}

void World::on(unsigned host, Disarm& e) {
  if (const auto armed = hosts[host].timers.extract(e.timer); !armed.empty()) clock.forget(armed.mapped());
}

void World::on(unsigned host, Dial& e) {
  clock.after(dice.within(30), [this, host, node = e.node, life = hosts[host].life] {
    if (hosts[host].life != life) return;
    const auto to = host_of(node);
    if (!hosts[to].node || (trouble && dice.one_in(20))) return tell(host, DialFailed{node, "refused"});
    const auto near = next_link_++, far = next_link_++;
    hosts[host].links[near] = hosts[to].links[far] = connections.size();
    connections.push_back({.ends = {{.host = host, .link = near}, {.host = to, .link = far}}});
    tell(to, Accepted{far, nonce_of(far)});
    tell(host, Dialled{node, near, nonce_of(near)});
  });
}

/// What is sent in one direction arrives in order.
void World::arrive(std::size_t connection, unsigned to, std::function<void(Connection::End&)> what) {
  auto& end = connections[connection].ends[to];
  end.last = std::max(end.last, clock.now + dice.within(trouble && dice.one_in(50) ? 1500 : 20));
  clock.at(end.last, [this, connection, to, what = std::move(what)] {
    auto& c = connections[connection];
    if (c.ends[to].open && !c.silent) what(c.ends[to]);
  });
}

void World::watch(Connection& connection, unsigned from, const Message& message) {
  std::visit(Overloaded{[&](const BorrowRequest& m) { connection.ends[from].asked.insert(m.number); },
                        [&](const ReturnRequest& m) { connection.ends[from].asked.insert(m.number); },
                        [&](const ConfigRequest& m) { connection.ends[from].asked.insert(m.number); },
                        [&](const Answer& m) {
                          if (connection.ends[1 - from].asked.erase(m.number) == 0) fault("an answer nobody waits for");
                        },
                        [&](const ConfigAnswer& m) {
                          if (connection.ends[1 - from].asked.erase(m.number) == 0) fault("an answer nobody waits for");
                        },
                        [](const auto&) {}},
             message);
}

void World::on(unsigned host, Send& e) {
  const auto found = hosts[host].links.find(e.link);
  if (found == hosts[host].links.end()) return;
  auto& c = connections[found->second];
  const unsigned from = c.ends[0].link == e.link ? 0 : 1;
  watch(c, from, e.message);
  arrive(found->second, 1 - from, [this, message = std::move(e.message)](Connection::End& end) {
    tell(end.host, Received{end.link, message});
  });
}

void World::close_end(Connection::End& end, const char* why) {
  if (!std::exchange(end.open, false)) return;
  hosts[end.host].links.erase(end.link);
  later(end.host, milliseconds{0}, [link = end.link, why] { return LinkDown{link, why}; });
}

void World::on(unsigned host, Drop& e) {
  const auto found = hosts[host].links.extract(e.link);
  if (found.empty()) return;
  auto& c = connections[found.mapped()];
  const unsigned from = c.ends[0].link == e.link ? 0 : 1;
  c.ends[from].open = false;
  arrive(found.mapped(), 1 - from, [this](Connection::End& end) { close_end(end, "closed by the other end"); });
}

void World::cut(std::size_t connection) {
  for (auto& end : connections[connection].ends) close_end(end, "cut");
}

void World::silence(std::size_t connection) {
  connections[connection].silent = true;
  clock.after(milliseconds{10000}, [this, connection] { cut(connection); });
}

void World::bridge(unsigned a, unsigned b, bool up) {
  for (const auto& [host, peer] : {std::pair{a, b}, std::pair{b, a}})
    later(host, dice.within(500), [this, peer, up] {
      return BridgeChanged{.address = fmt::format("vfio-user:/bridge-to-{}", number(hosts[peer].id)),
                           .peer = hosts[peer].id,
                           .up = up,
                           .reason = up ? "" : "it is silent"};
    });
}

void World::run_for(milliseconds time) {
  const auto end = clock.now + time;
  while (!clock.idle() && clock.now < end && faults.empty()) clock.step();
}

void World::rest() {
  trouble = false;
  for (unsigned host = 0; host < hosts.size(); ++host)
    if (!hosts[host].node) start(host);
  run_for(milliseconds{30000});
  for (unsigned host = 0; host < hosts.size(); ++host)
    for (const auto& other : hosts)
      for (std::uint16_t index = 0; index < 4; ++index)
        command(host, "return", {{"device", to_string(make_device_id(other.id, index))}});
  run_for(milliseconds{60000});
  if (!faults.empty()) return;
  if (!clock.idle()) fault("something goes on for ever");
  for (const auto& h : hosts) {
    const auto status = h.node->status_document();
    if (!h.requests.empty()) fault("a command was never answered");
    if (!h.sockets.empty() || !status["loans"].empty()) fault("a loan is left: " + status["loans"].dump());
    for (const auto& [id, lent] : h.devices)
      if (!lent.users.empty()) fault("somebody still reaches device " + to_string(id));
    for (const auto& shown : status["devices"])
      if (shown["state"] == "borrowed" && shown["reachable"]) fault("a device is lent to nobody: " + shown.dump());
  }
  for (const auto& c : connections)
    for (const auto& end : c.ends)
      if (c.ends[0].open && c.ends[1].open && !end.asked.empty()) fault("a request between nodes was never answered");
}

} // namespace smartio::core::test
