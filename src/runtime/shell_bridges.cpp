// Bridges to other hosts: taken from their drivers, driven, given back.
#include "shell.hpp"

#include "result.hpp"

#include <algorithm>

namespace smartio {

using fabric::ntb::Peer;

namespace {
constexpr std::chrono::milliseconds shortest_pause{100}, longest_pause{5000};
} // namespace

void Shell::perform(core::UseBridges& effect) {
  wanted_bridges_ = std::move(effect);
  const auto unwanted = [this](const auto& bridge) {
    return bridge.second->failed ||
           std::ranges::find(wanted_bridges_.addresses, bridge.first) == wanted_bridges_.addresses.end();
  };
  for (auto bridge = bridges_.begin(); bridge != bridges_.end();)
    if (unwanted(*bridge))
      close_bridge(bridges_.extract(bridge++), [] {});
    else
      ++bridge;
  open_bridges();
}

/// Those that are still being closed are opened afterwards.
void Shell::open_bridges() {
  if (stopping_) return;
  for (const auto& address : wanted_bridges_.addresses)
    if (!bridges_.contains(address) && !closing_bridges_.contains(address)) open_bridge(address);
}

/// Like a device that is lent, but for ourselves: taken from its driver, and opened.
void Shell::open_bridge(const std::string& address) {
  bridges_[address] = std::make_shared<Bridge>();
  const auto bdf = parse_bdf(address);
  auto source = bdf ? kernel_source(*bdf, vfio::kernel::Interface::automatic)
                    : user_source(address.substr(std::string_view("vfio-user:").size()));
  auto open = [this, address, bridge = bridges_[address], source = std::move(source)](const Result<void>& taken) {
    if (!taken) return bridge_opened(address, bridge, std::unexpected(taken.error()));
    source.open(
        [this, address, bridge](Result<OpenedDevice> opened) { bridge_opened(address, bridge, std::move(opened)); });
  };
  if (!bdf) return open({});
  bridges_[address]->taken = *bdf;
  bridges_[address]->opening = true;
  host_->take(*bdf, false, {}, std::move(open));
}

void Shell::bridge_opened(const std::string& address, const std::shared_ptr<Bridge>& bridge,
                          Result<OpenedDevice> opened) {
  bridge->opening = false;
  if (opened) bridge->device = std::move(*opened);
  if (auto end = std::exchange(bridge->end_when_open, nullptr)) return end();
  if (!opened) return bridge_failed(address, bridge, opened.error());
  if (bridge->over) return bridge->device.close([] {});
  start_bridge(address, bridge);
}

void Shell::start_bridge(const std::string& address, const std::shared_ptr<Bridge>& bridge) {
  bridge->device.device->on_lost([this, address, weak = std::weak_ptr(bridge)] {
    const auto lost = weak.lock();
    if (!lost || lost->failed || !is_current(address, lost)) return;
    lose_remote_devices([&lost](const RemoteLoan& loan) { return loan.bridge == lost->peer; });
    const auto why = lost->device.why_lost ? lost->device.why_lost() : std::string();
    bridge_failed(address, lost,
                  Error{make_error_code(Errc::peer_down), why.empty() ? "it does not answer any more" : why});
  });
  Peer::open(
      io_, bridge->device.device, {.node = config_.node, .silence = wanted_bridges_.silence},
      [this, address, weak = std::weak_ptr(bridge)] {
        if (const auto changed = weak.lock()) bridge_changed(address, *changed);
      },
      [this, address, bridge](Result<std::shared_ptr<Peer>> peer) {
        if (!peer) return bridge_failed(address, bridge, peer.error());
        if (bridge->failed || bridge->over) return (*peer)->close([] {}); // its device was lost or closed meanwhile
        bridge->peer = std::move(*peer);
        bridge->exposures = std::make_shared<Exposures>(bridge->peer);
        if (!is_current(address, bridge)) return end_bridge(address, bridge, [] {});
        bridge_changed(address, *bridge);
      });
}

bool Shell::is_current(const std::string& address, const std::shared_ptr<Bridge>& bridge) const {
  const auto found = bridges_.find(address);
  return !stopping_ && found != bridges_.end() && found->second == bridge;
}

/// It stays configured, and `status` says why it is down. A server is tried again by and by, a function of this host
/// when it appears again; configuring either again tries at once.
void Shell::bridge_failed(const std::string& address, const std::shared_ptr<Bridge>& bridge, const Error& error) {
  const bool current = is_current(address, bridge);
  if (std::exchange(bridge->failed, true)) return;
  end_bridge(address, bridge, [] {});
  if (!current) return;
  const auto why = to_string(error);
  if (config_.log && std::exchange(bridge_problems_[address], why) != why)
    config_.log(3, fmt::format("the bridge {} cannot be used: {}", address, why));
  handle(core::BridgeChanged{.address = address, .reason = why});
  if (parse_bdf(address)) return;
  bridge_pause_ = std::clamp<std::chrono::milliseconds>(2 * bridge_pause_, shortest_pause, longest_pause);
  bridge_timer_.expires_after(bridge_pause_);
  bridge_timer_.async_wait([this](boost::system::error_code cancelled) {
    if (!cancelled) retry_bridges();
  });
}

void Shell::retry_bridges() {
  std::vector<std::string> failed;
  for (const auto& [address, bridge] : bridges_)
    if (bridge->failed && !parse_bdf(address)) failed.push_back(address);
  for (const auto& address : failed) bridge_appeared(address);
}

void Shell::bridge_appeared(const std::string& address) {
  const auto found = bridges_.find(address);
  if (stopping_ || found == bridges_.end() || !found->second->failed) return;
  bridges_.erase(found); // its end has begun, or is over
  open_bridges();
}

/// The devices of loans that reach over a bridge that is down are stopped before anybody is told.
void Shell::bridge_changed(const std::string& address, const Bridge& bridge) {
  const auto found = bridges_.find(address);
  if (found == bridges_.end() || found->second.get() != &bridge || !bridge.peer) return;
  const auto& state = bridge.peer->state();
  if (!state.up) lose_remote_devices([&bridge](const RemoteLoan& loan) { return loan.bridge == bridge.peer; });
  if (state.up) bridge_problems_.erase(address);
  if (state.up) bridge_pause_ = {};
  handle(core::BridgeChanged{.address = address,
                             .peer = state.node,
                             .up = state.up,
                             .aperture_bytes = state.aperture_bytes,
                             .used_bytes = bridge.peer->used_bytes(),
                             .reason = state.reason});
}

void Shell::close_bridge(BridgeNode node, std::move_only_function<void()> closed) {
  const auto bridge = std::move(node.mapped());
  if (bridge->peer) lose_remote_devices([&bridge](const RemoteLoan& loan) { return loan.bridge == bridge->peer; });
  end_bridge(node.key(), bridge, std::move(closed));
}

/// Closes what is open of it, and gives it back to its driver.
void Shell::end_bridge(const std::string& address, const std::shared_ptr<Bridge>& bridge,
                       std::move_only_function<void()> closed) {
  if (bridge->over) return closed();
  bridge->enders.push_back(std::move(closed));
  if (bridge->enders.size() > 1) return; // it is ending already
  ++closing_bridges_[address];
  auto ended = [this, address, bridge, use = host_in_use_] {
    if (--closing_bridges_[address] == 0) closing_bridges_.erase(address);
    bridge->over = true;
    for (auto& each : std::exchange(bridge->enders, {})) each();
    open_bridges();
  };
  auto give_back = [this, bridge, ended = std::move(ended)]() mutable {
    if (!bridge->taken) return ended();
    host_->give_back(*bridge->taken, [this, ended = std::move(ended)](const Result<std::string>& driver) mutable {
      if (!driver && config_.log) config_.log(3, to_string(driver.error()));
      ended();
    });
  };
  auto close = [bridge, give_back = std::move(give_back)]() mutable {
    auto device = std::exchange(bridge->device, {});
    if (!device.device) return give_back();
    device.close(std::move(give_back));
  };
  bridge->exposures.reset();
  if (bridge->opening) { // the function goes back to its driver once it is closed, and what is not open cannot be
    bridge->end_when_open = std::move(close);
    return;
  }
  if (const auto peer = std::exchange(bridge->peer, nullptr)) return peer->close(std::move(close));
  close();
}

/// The kernel waits until nothing of it is open.
void Shell::bridge_wanted_back(const std::string& address) {
  const auto found = bridges_.find(address);
  if (found == bridges_.end()) return;
  const auto bridge = found->second;
  lose_remote_devices([&bridge](const RemoteLoan& loan) { return loan.bridge == bridge->peer; });
  bridge_failed(address, bridge,
                Error{make_error_code(Errc::peer_down), "the kernel wants it back: it is being unbound or pulled out"});
}

std::shared_ptr<Exposures> Shell::exposures_to(NodeId node) const {
  for (const auto& [address, bridge] : bridges_)
    if (bridge->peer && bridge->peer->state().up && bridge->peer->state().node == node) return bridge->exposures;
  return nullptr;
}

} // namespace smartio
