// Bridges to other hosts, and loans that reach over them.
#include "shell.hpp"

#include "result.hpp"

#include <algorithm>

namespace smartio {

using core::DeviceMessage;
using fabric::ntb::Peer;

void Shell::perform(core::UseBridges& effect) {
  const auto unwanted = [&effect](const auto& bridge) {
    return std::ranges::find(effect.addresses, bridge.first) == effect.addresses.end();
  };
  for (auto bridge = bridges_.begin(); bridge != bridges_.end();)
    if (unwanted(*bridge))
      close_bridge(bridges_.extract(bridge++), [] {});
    else
      ++bridge;
  for (const auto& address : effect.addresses)
    if (!bridges_.contains(address)) open_bridge(address, effect.silence);
}

/// Like a device that is lent, but for ourselves: taken from its driver, and opened.
void Shell::open_bridge(const std::string& address, std::chrono::milliseconds silence) {
  bridges_[address] = std::make_shared<Bridge>(Bridge{.silence = silence});
  handle(core::BridgeChanged{.address = address, .reason = "it is being opened"});
  const auto bdf = parse_bdf(address);
  auto source = bdf ? kernel_source(*bdf, vfio::kernel::Interface::automatic)
                    : user_source(address.substr(std::string_view("vfio-user:").size()));
  auto open = [this, address, bridge = bridges_[address], source = std::move(source)](const Result<void>& taken) {
    if (!taken) return bridge_failed(address, bridge, taken.error());
    source.open([this, address, bridge](Result<OpenedDevice> opened) {
      if (!opened) return bridge_failed(address, bridge, opened.error());
      bridge->device = std::move(*opened);
      start_bridge(address, bridge);
    });
  };
  if (!bdf) return open({});
  bridges_[address]->taken = *bdf;
  host_->take(*bdf, false, {}, std::move(open));
}

void Shell::start_bridge(const std::string& address, const std::shared_ptr<Bridge>& bridge) {
  Peer::open(
      io_, bridge->device.device, {.node = config_.node, .silence = bridge->silence},
      [this, address, weak = std::weak_ptr(bridge)] {
        if (const auto changed = weak.lock()) bridge_changed(address, *changed);
      },
      [this, address, bridge](Result<std::shared_ptr<Peer>> peer) {
        if (!peer) return bridge_failed(address, bridge, peer.error());
        bridge->peer = std::move(*peer);
        if (!is_current(address, bridge)) return end_bridge(bridge, [] {});
        bridge_changed(address, *bridge);
      });
}

bool Shell::is_current(const std::string& address, const std::shared_ptr<Bridge>& bridge) const {
  const auto found = bridges_.find(address);
  return !stopping_ && found != bridges_.end() && found->second == bridge;
}

/// It stays configured, and `status` says why it is down.
void Shell::bridge_failed(const std::string& address, const std::shared_ptr<Bridge>& bridge, const Error& error) {
  const bool current = is_current(address, bridge);
  end_bridge(bridge, [] {});
  if (!current) return;
  if (config_.log) config_.log(3, fmt::format("the bridge {} cannot be used: {}", address, to_string(error)));
  handle(core::BridgeChanged{.address = address, .reason = to_string(error)});
}

/// The devices of loans that reach over a bridge that is down are stopped before anybody is told.
void Shell::bridge_changed(const std::string& address, const Bridge& bridge) {
  const auto found = bridges_.find(address);
  if (found == bridges_.end() || found->second.get() != &bridge) return;
  const auto& state = bridge.peer->state();
  if (!state.up) lose_remote_devices([&bridge](const RemoteLoan& loan) { return loan.bridge == bridge.peer; });
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
  end_bridge(bridge, std::move(closed));
}

void Shell::end_bridge(const std::shared_ptr<Bridge>& bridge, std::move_only_function<void()> closed) {
  auto finish = [this, bridge, closed = std::move(closed)]() mutable {
    if (!bridge->taken) return closed();
    host_->give_back(*bridge->taken, [this, closed = std::move(closed)](const Result<std::string>& driver) mutable {
      if (!driver && config_.log) config_.log(3, to_string(driver.error()));
      closed();
    });
  };
  auto close = [bridge, finish = std::move(finish)]() mutable {
    auto device = std::exchange(bridge->device, {});
    if (!device.device) return finish();
    device.close(std::move(finish));
  };
  if (bridge->peer) return bridge->peer->close(std::move(close));
  close();
}

std::shared_ptr<Peer> Shell::bridge_to(NodeId node) const {
  for (const auto& [address, bridge] : bridges_)
    if (bridge->peer && bridge->peer->state().up && bridge->peer->state().node == node) return bridge->peer;
  return nullptr;
}

// The borrower's side.

DeviceSource Shell::remote_source(core::LoanId loan, core::LinkId link) {
  return {[this, loan, link](DeviceSource::Opened opened) {
            const auto bridge = bridge_to(lender_of(loan.device));
            if (!bridge) return opened(fail(Errc::peer_down, "the bridge to the lender is down"));
            const auto session = next_session_++;
            const auto device = std::make_shared<RemoteDevice>(
                io_, loan, session, bridge, config_.timeout,
                [this, link](const DeviceMessage& message) { send_device_message(link, message); });
            remote_loans_[session] = {link, bridge, device};
            // The lender sees the bridge with its own eyes: that it answers is what proves the fabric.
            device->submit(vfio::GetInfo{},
                           [this, device, session, opened = std::move(opened)](const vfio::Reply& reply) mutable {
                             if (!reply)
                               return opened(fail(Errc::peer_down, "it does not serve the device over the bridge"));
                             OpenedDevice lent;
                             lent.device = device;
                             lent.interface = "ntb";
                             lent.close = [this, device, session](std::move_only_function<void()> closed) {
                               remote_loans_.erase(session);
                               device->close();
                               closed();
                             };
                             opened(std::move(lent));
                           });
          },
          "the lender, or the bridge to it, does not answer",
          {}};
}

void Shell::lose_remote_devices(const std::function<bool(const RemoteLoan&)>& which) {
  std::vector<std::shared_ptr<RemoteDevice>> lost;
  std::erase_if(remote_loans_, [&](const auto& entry) {
    if (!which(entry.second)) return false;
    if (auto device = entry.second.device.lock()) lost.push_back(std::move(device));
    return true;
  });
  for (const auto& device : lost) device->lose();
}

void Shell::send_device_message(core::LinkId link, const DeviceMessage& message) {
  if (const auto found = links_.find(link); found != links_.end())
    found->second->send(core::encode_frame(core::FrameKind::vfio_user, core::encode(message)));
}

void Shell::device_frame(core::LinkId link, const std::string& payload) {
  auto message = core::decode_device_message(payload);
  if (!message) return handle(core::LinkDown{link, "it sent a malformed message for a device"});
  const RemoteClientKey key{link, message->session};
  if (message->kind == DeviceMessage::Kind::command) return serve_remote(key, std::move(*message));
  if (const auto client = remote_clients_.find(key); client != remote_clients_.end()) {
    if (const auto gone = client->second.gone) gone();
    return;
  }
  const auto loan = remote_loans_.find(message->session);
  if (loan == remote_loans_.end() || loan->second.link != link) return;
  const auto device = loan->second.device.lock();
  if (message->kind == DeviceMessage::Kind::closed) remote_loans_.erase(loan);
  if (!device) return;
  if (message->kind == DeviceMessage::Kind::closed) return device->lose();
  device->received(std::move(*message));
}

// The lender's side.

/// A session that is not known begins with its first command; its number is higher than those before.
void Shell::serve_remote(const RemoteClientKey& key, DeviceMessage command) {
  auto client = remote_clients_.find(key);
  if (client == remote_clients_.end()) {
    const auto [link, session] = key;
    const auto device = devices_.find(command.loan.device);
    auto& newest = newest_session_[link];
    const auto bridge = node_->admits(command.loan, link) ? bridge_to(node_->peer_of(link)) : nullptr;
    if (session <= newest || !bridge || device == devices_.end())
      return send_device_message(link, {.loan = command.loan, .session = session, .kind = DeviceMessage::Kind::closed});
    newest = session;
    auto send = [this, to = link](const DeviceMessage& message) { send_device_message(to, message); };
    auto remote = std::make_shared<RemoteClient>(io_, command.loan, session, bridge, peer_windows_, std::move(send));
    client = remote_clients_.emplace(key, RemoteEnd{remote, {}}).first;
    device->second->attach(command.loan, node_->is_shared(command.loan),
                           [this, key, remote](std::shared_ptr<vfio::Device> lent, std::function<void()> gone) {
                             remote_clients_[key] = {remote, std::move(gone)};
                             remote->admitted(std::move(lent));
                             return [this, key, remote] {
                               remote_clients_.erase(key);
                               remote->close();
                             };
                           });
    client = remote_clients_.find(key);
    if (client == remote_clients_.end()) return;
  }
  client->second.client->received(std::move(command));
}

/// The peer connection has ended: what travelled over it has, too.
void Shell::remote_link_ended(core::LinkId link) {
  lose_remote_devices([link](const RemoteLoan& loan) { return loan.link == link; });
  newest_session_.erase(link);
  std::vector<std::function<void()>> gone;
  for (const auto& [key, end] : remote_clients_)
    if (key.first == link && end.gone) gone.push_back(end.gone);
  for (const auto& tell : gone) tell();
}

} // namespace smartio
