#include "bridges.hpp"

#include "addresses.hpp"
#include "bridge.hpp"
#include "result.hpp"
#include "server_names.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>

namespace smartio {

namespace asio = boost::asio;

namespace {
constexpr std::chrono::milliseconds shortest_pause{100}, longest_pause{5000};
} // namespace

void Bridges::perform(core::UseBridges& effect) {
  wanted_ = std::move(effect);
  const auto unwanted = [this](const auto& bridge) {
    return bridge.second->failed || std::ranges::find(wanted_.addresses, bridge.first) == wanted_.addresses.end();
  };
  for (auto bridge = bridges_.begin(); bridge != bridges_.end();)
    if (unwanted(*bridge))
      close(bridges_.extract(bridge++), [] {});
    else
      ++bridge;
  open_all();
}

/// Those that are still being closed are opened afterwards.
void Bridges::open_all() {
  if (context_.stopping) return;
  for (const auto& address : wanted_.addresses)
    if (!bridges_.contains(address) && !closing_.contains(address)) open(address);
}

/// Like a device that is lent, but for ourselves: taken from its driver, and opened.
void Bridges::open(const std::string& address) {
  bridges_[address] = std::make_shared<Bridge>();
  const auto bdf = parse_bdf(address);
  auto open_device = [this, address, bridge = bridges_[address]](const Result<core::Who>& taken) {
    if (!taken) return opened(address, bridge, std::unexpected(taken.error()));
    source(address).open(
        [this, address, bridge](Result<OpenedDevice> device) { opened(address, bridge, std::move(device)); });
  };
  auto may = fabric::can_open_bridges();
  if (const auto other = same_server(address); may && other)
    may = fail(Errc::wrong_state, "its server is that of the bridge {}: configure one of the two", *other);
  if (!may)
    return asio::post(context_.io, [this, address, may, bridge = bridges_[address]] {
      opened(address, bridge, std::unexpected(may.error()));
    });
  if (!bdf) return open_device({});
  bridges_[address]->taken = *bdf;
  bridges_[address]->opening = true;
  host_.take(*bdf, {}, false, {}, std::move(open_device));
}

/// The bridge that is used already and has its server, under another name.
std::optional<std::string> Bridges::same_server(const std::string& address) const {
  const auto socket_of = [](const std::string& of) {
    return parse_bdf(of) ? std::string() : socket_at(of.substr(core::user_prefix.size()));
  };
  const auto socket = socket_of(address);
  for (const auto& [other, bridge] : bridges_)
    if (!socket.empty() && other != address && !bridge->failed && socket_of(other) == socket) return other;
  return std::nullopt;
}

DeviceSource Bridges::source(const std::string& address) {
  if (const auto bdf = parse_bdf(address))
    return sources_.kernel(*bdf, vfio::kernel::Interface::automatic, [this, address] { wanted_back(address); });
  return sources_.user(address.substr(core::user_prefix.size()), false);
}

void Bridges::opened(const std::string& address, const Ref& bridge, Result<OpenedDevice> device) {
  bridge->opening = false;
  if (device) bridge->device = std::move(*device);
  if (auto end = std::exchange(bridge->end_when_open, nullptr)) return end();
  if (!device) return failed(address, bridge, device.error());
  if (bridge->over) return bridge->device.close([] {});
  start(address, bridge);
}

void Bridges::start(const std::string& address, const Ref& bridge) {
  bridge->device.device->on_lost([this, address, weak = std::weak_ptr(bridge)] {
    const auto lost = weak.lock();
    if (!lost || lost->failed || !is_current(address, lost)) return;
    lost_(lost->path);
    const auto why = lost->device.why_lost ? lost->device.why_lost() : std::string();
    failed(address, lost, Error{make_error_code(Errc::peer_down), why.empty() ? "it does not answer any more" : why});
  });
  fabric::open_bridge(
      context_.io, bridge->device.device, context_.config.node, wanted_.silence,
      [this, address, weak = std::weak_ptr(bridge)] {
        if (const auto which = weak.lock()) changed(address, *which);
      },
      [this, address, bridge](Result<PathRef> path) {
        if (!path) return failed(address, bridge, path.error());
        if (bridge->failed || bridge->over) return (*path)->close([] {}); // its device was lost or closed meanwhile
        bridge->path = std::move(*path);
        bridge->exposures = std::make_shared<Exposures>(bridge->path);
        if (!is_current(address, bridge)) return end(address, bridge, [] {});
        changed(address, *bridge);
      });
}

bool Bridges::is_current(const std::string& address, const Ref& bridge) const {
  const auto found = bridges_.find(address);
  return !context_.stopping && found != bridges_.end() && found->second == bridge;
}

/// It stays configured, and `status` says why it is down. A server is tried again by and by, a function of this host
/// when it appears again; configuring either again tries at once.
void Bridges::failed(const std::string& address, const Ref& bridge, const Error& error) {
  const bool current = is_current(address, bridge);
  if (std::exchange(bridge->failed, true)) return;
  end(address, bridge, [] {});
  if (!current) return;
  const auto why = to_string(error);
  if (std::exchange(problems_[address], why) != why)
    context_.log(3, fmt::format("the bridge {} cannot be used: {}", address, why));
  context_.handle(core::BridgeChanged{.address = address, .reason = why});
  if (parse_bdf(address)) return;
  pause_ = std::clamp<std::chrono::milliseconds>(2 * pause_, shortest_pause, longest_pause);
  retry_timer_.expires_after(pause_);
  retry_timer_.async_wait([this](boost::system::error_code cancelled) {
    if (!cancelled) retry();
  });
}

void Bridges::retry() {
  std::vector<std::string> away;
  for (const auto& [address, bridge] : bridges_)
    if (bridge->failed) away.push_back(address);
  for (const auto& address : away) appeared(address);
}

void Bridges::appeared(const std::string& address) {
  const auto found = bridges_.find(address);
  if (context_.stopping || found == bridges_.end() || !found->second->failed) return;
  bridges_.erase(found); // its end has begun, or is over
  open_all();
}

/// The devices of loans that reach over a bridge that is down are stopped before anybody is told.
void Bridges::changed(const std::string& address, const Bridge& bridge) {
  const auto found = bridges_.find(address);
  if (found == bridges_.end() || found->second.get() != &bridge || !bridge.path) return;
  const auto& state = bridge.path->state();
  if (!state.up) lost_(bridge.path);
  if (state.up) problems_.erase(address);
  if (state.up) pause_ = {};
  context_.handle(core::BridgeChanged{.address = address,
                                      .peer = state.node,
                                      .up = state.up,
                                      .aperture_bytes = state.aperture_bytes,
                                      .used_bytes = bridge.path->used_bytes(),
                                      .reason = state.reason});
}

void Bridges::close(Table::node_type node, std::move_only_function<void()> closed) {
  const auto bridge = std::move(node.mapped());
  if (bridge->path) lost_(bridge->path);
  end(node.key(), bridge, std::move(closed));
}

/// Closes what is open of it, and gives it back to its driver.
void Bridges::end(const std::string& address, const Ref& bridge, std::move_only_function<void()> closed) {
  if (bridge->over) return closed();
  bridge->enders.push_back(std::move(closed));
  if (bridge->enders.size() > 1) return; // it is ending already
  ++closing_[address];
  auto ended = [this, address, bridge, use = ending_.begin()] {
    if (--closing_[address] == 0) closing_.erase(address);
    bridge->over = true;
    for (auto& each : std::exchange(bridge->enders, {})) each();
    open_all();
  };
  auto close_device = [this, bridge, ended = std::move(ended)]() mutable {
    auto device = std::exchange(bridge->device, {});
    if (!device.device) return give_back(*bridge, std::move(ended));
    device.close([this, bridge, ended = std::move(ended)]() mutable { give_back(*bridge, std::move(ended)); });
  };
  bridge->exposures.reset();
  if (bridge->opening) { // the function goes back to its driver once it is closed, and what is not open cannot be
    bridge->end_when_open = std::move(close_device);
    return;
  }
  if (const auto path = std::exchange(bridge->path, nullptr)) return path->close(std::move(close_device));
  close_device();
}

void Bridges::give_back(const Bridge& bridge, std::move_only_function<void()> done) {
  if (!bridge.taken) return done();
  host_.give_back(*bridge.taken, [this, done = std::move(done)](const Result<std::string>& driver) mutable {
    if (!driver) context_.log(3, to_string(driver.error()));
    done();
  });
}

/// The kernel waits until nothing of it is open.
void Bridges::wanted_back(const std::string& address) {
  const auto found = bridges_.find(address);
  if (found == bridges_.end()) return;
  const auto bridge = found->second;
  if (bridge->path) lost_(bridge->path);
  failed(address, bridge,
         Error{make_error_code(Errc::peer_down), "the kernel wants it back: it is being unbound or pulled out"});
}

std::shared_ptr<Exposures> Bridges::to(NodeId node, const PathRef& before) const {
  std::shared_ptr<Exposures> first;
  for (const auto& [address, bridge] : bridges_) {
    if (!bridge->path || !bridge->path->state().up || bridge->path->state().node != node) continue;
    if (bridge->path == before) return bridge->exposures;
    if (!first) first = bridge->exposures;
  }
  return first;
}

std::shared_ptr<Exposures> Bridges::find(NodeId node, const fabric::Path::Lives& lives) const {
  for (const auto& [address, bridge] : bridges_)
    if (bridge->path && bridge->path->state().up && bridge->path->state().node == node &&
        bridge->path->lives() == lives)
      return bridge->exposures;
  return nullptr;
}

void Bridges::close_all(const std::shared_ptr<void>& closed) {
  wanted_ = {};
  retry_timer_.cancel();
  ending_.over(closed);
  while (!bridges_.empty()) close(bridges_.extract(bridges_.begin()), [closed] {});
}

} // namespace smartio
