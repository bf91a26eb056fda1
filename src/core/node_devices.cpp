// Own devices: their states, what connected borrowers are told of them, opening and closing.
#include "node.hpp"

#include <algorithm>

namespace smartio::core {

OwnDevice* Node::own(DeviceId id) { return lender_of(id) == settings_.node ? devices_.find(index_of(id)) : nullptr; }

std::optional<DeviceId> Node::own_by_address(const std::string& address) const {
  const auto index = devices_.by_address(address);
  return index ? std::optional(make_device_id(settings_.node, *index)) : std::nullopt;
}

void Node::announce(DeviceId id) {
  Devices change;
  if (const auto* device = own(id))
    change.changed.push_back(entry_of(id, *device));
  else
    change.removed.push_back(id);
  for (const auto& [node, borrower] : borrowers_)
    if (borrower.up) send(borrower.link, change);
}

void Node::set_state(DeviceId id, OwnDevice& device, DeviceState state, std::string reason) {
  const auto before = device.state;
  device.state = state;
  device.reason = std::move(reason);
  announce(id);
  if (state == before) return;
  Json fields{{"device", to_string(id)}};
  if (!device.reason.empty()) fields["reason"] = device.reason;
  if (state == DeviceState::borrowed)
    fields["borrower"] = static_cast<unsigned>(device.shares.begin()->second.borrower);
  emit(fmt::format("device-{}", to_string(state)).c_str(), std::move(fields));
}

void Node::probe(DeviceId id, OwnDevice& device) {
  device.asked = Asked::probe;
  const auto entry = intent_.devices.find(index_of(id));
  const bool is_new = entry == intent_.devices.end();
  effects_.push_back(ProbeDevice{id, device.address, is_new ? Who{} : entry->second.who, is_new});
}

/// There is no such device, any more.
void Node::drop(DeviceId id) {
  devices_.remove(index_of(id));
  missing_.erase(index_of(id));
  effects_.push_back(ForgetDevice{id});
}

/// What was to be added is there already, under another name: whoever asked for it gets that.
void Node::join(DeviceId id, const std::string& address) {
  auto& device = *own(id);
  const auto other = own_by_address(address);
  if (!other || *other == id) return probe(id, device); // it was removed meanwhile
  const auto name = device.address;
  const auto requests = std::exchange(device.waiting, {});
  drop(id);
  auto& there = *own(*other);
  for (const auto request : requests)
    if (there.asked == Asked::probe)
      there.waiting.push_back(request);
    else
      reply(request, Json{{"device", to_string(*other)}},
            fmt::format("{} leads to the server of {}, which is device {} already", name, address, to_string(*other)));
}

/// Whatever is there if a command waits for it, else what is remembered.
void Node::open(DeviceId id, OwnDevice& device, bool force) {
  device.asked = Asked::open;
  device.vanished = false;
  std::vector<std::string> companions;
  if (parse_bdf(device.address)) // those behind sockets have no group
    for (const auto& [index, other] : devices_) companions.push_back(other.address);
  const auto iommu = intent_.options.find("iommu");
  const auto entry = intent_.devices.find(index_of(id));
  const bool by_hand = !device.waiting.empty() || entry == intent_.devices.end();
  effects_.push_back(OpenDevice{id, device.address, iommu == intent_.options.end() ? "auto" : iommu->second, force,
                                std::move(companions), device.without_reset, by_hand ? Who{} : entry->second.who});
}

/// Ends at `unavailable` (or opens it again), when no loan is left.
void Node::close(DeviceId id, OwnDevice& device) {
  device.asked = Asked::close;
  device.leaving = false;
  effects_.push_back(CloseDevice{id});
}

void Node::on(const DeviceClosed& closed) {
  auto* device = own(closed.device);
  if (device == nullptr || device->asked != Asked::close) return;
  device->asked = Asked::nothing;
  device->identity.driver = closed.driver;
  if (device->identity.iommu_group) device->identity.interface.clear();
  const bool reopens = std::exchange(device->reopens, false);
  if (closed.error) {
    log(3,
        fmt::format("device {} did not go back to its driver: {}", to_string(closed.device), to_string(*closed.error)));
    set_state(closed.device, *device, DeviceState::quarantined, to_string(*closed.error));
    return reply(device->waiting, std::unexpected(*closed.error));
  }
  if (reopens) return open(closed.device, *device, true);
  set_state(closed.device, *device, DeviceState::unavailable, device->vanished ? "it is not there any more" : "");
  reply(device->waiting, Json{{"device", to_string(closed.device)}});
  if (missing_.contains(index_of(closed.device))) look_for_missing();
}

/// Of this host: it was pulled out, or somebody unbinds it and the kernel waits until it is closed. That it should be
/// available stays on record, for when it appears again.
void Node::on(const DeviceVanished& vanished) {
  const auto id = own_by_address(vanished.address);
  if (!id) return;
  auto& device = *own(*id);
  if (std::exchange(device.vanished, true)) return;
  missing_.insert(index_of(*id));
  log(4, fmt::format("device {}: {}", to_string(*id), vanished.why));
  if (device.asked == Asked::open || device.asked == Asked::close) return; // its answer shows it
  if (device.state == DeviceState::unavailable) return set_state(*id, device, device.state, vanished.why);
  if (device.shares.empty()) return close(*id, device);
  device.leaving = true;
  end_shares(*id, device, vanished.why, true);
}

/// Without an address: functions of this host have come or gone, and it is not known which. Those that are open are
/// told of by the kernel itself.
void Node::on(const DeviceAppeared& appeared) {
  const auto look_at = [this](DeviceId id, OwnDevice& device) {
    if (device.state != DeviceState::unavailable || device.asked != Asked::nothing) return;
    device.vanished = false;
    probe(id, device);
  };
  if (appeared.address.empty())
    for (auto& [index, device] : devices_)
      if (parse_bdf(device.address)) look_at(make_device_id(settings_.node, index), device);
  if (const auto id = own_by_address(appeared.address)) {
    auto& device = *own(*id);
    look_at(*id, device);
    device.vanished = false;
    // The server of a device in quarantine was started anew. A loan that is ending still is ended first.
    if (device.state == DeviceState::quarantined && !parse_bdf(device.address) && device.asked == Asked::nothing &&
        !device.leaving) {
      device.reopens = true;
      if (device.shares.empty()) close(*id, device);
    }
  }
  look_for_missing();
  scan({.purpose = ScanFor::appeared, .rules = {}});
}

void Node::on(const DeviceProbed& probed) {
  auto* device = own(probed.device);
  if (device == nullptr || device->asked != Asked::probe) return;
  device->asked = Asked::nothing;
  const auto index = index_of(probed.device);
  const bool known = intent_.devices.contains(index); // added before this start
  const bool in_use = !probed.identity && probed.identity.error().code == Errc::busy;
  if (!known && !probed.same_as.empty()) return join(probed.device, probed.same_as);
  if (!probed.identity && !in_use && !known) {
    reply(device->waiting, std::unexpected(probed.identity.error()));
    return drop(probed.device);
  }
  const auto before = entry_of(probed.device, *device);
  if (!known) {
    intent_.devices[index] = {.address = device->address,
                              .who = probed.identity ? probed.identity->who : Who{},
                              .by_filter = device->by_filter};
    save(device_line(intent_, index));
    emit("device-added", {{"device", to_string(probed.device)}, {"address", device->address}});
  }
  note_whereabouts(index, probed);
  device->unidentified = false;
  const auto same =
      probed.identity ? check_identity(index, *probed.identity) : std::unexpected(probed.identity.error());
  auto why = same ? std::string{} : to_string(same.error());
  if (probed.identity)
    devices_.identify(index, *probed.identity);
  else if (device->identity.name.empty())
    device->identity.name = "Unassigned class [ffff]: unknown device";
  if (!why.empty() && why != device->reason)
    log(device->unidentified ? 6 : 4, fmt::format("device {}: {}", to_string(probed.device), why));
  device->reason = std::move(why);
  if (entry_of(probed.device, *device) != before) announce(probed.device);
  if (device->unidentified && std::exchange(device->identified, false)) return probe(probed.device, *device);
  const bool wanted = std::exchange(device->wanted, false) || intent_.devices[index].available;
  if (wanted && same) return open(probed.device, *device);
  reply(device->waiting, Json{{"device", to_string(probed.device)}});
}

void Node::on(const DeviceOpened& opened) {
  auto* device = own(opened.device);
  if (device == nullptr || device->asked != Asked::open) return;
  device->asked = Asked::nothing;
  if (!opened.identity) {
    const auto& error = opened.identity.error();
    if (device->reason == to_string(error) && device->waiting.empty()) return; // an attempt of its own, like the last
    log(3, fmt::format("device {} cannot be made available: {}", to_string(opened.device), to_string(error)));
    set_state(opened.device, *device, device->state, to_string(error));
    return reply(device->waiting, std::unexpected(error));
  }
  if (device->vanished) { // while it was opened
    reply(device->waiting, fail(Errc::no_such_device, "device {} was taken away", to_string(opened.device)));
    return close(opened.device, *device);
  }
  auto& wanted = intent_.devices[index_of(opened.device)];
  auto identity = *opened.identity;
  // What is remembered is of another device if the last look said so, or could not tell, and it was lent all the same.
  const bool other = device->unidentified || !check_same(wanted.who, device->identity.who);
  identity.who = joined(std::move(identity.who), other ? device->identity.who : wanted.who);
  const bool changed = wanted.without_reset != device->without_reset || wanted.who != identity.who;
  wanted.who = identity.who;
  devices_.identify(index_of(opened.device), std::move(identity));
  missing_.erase(index_of(opened.device));
  wanted.without_reset = device->without_reset;
  if (!std::exchange(wanted.available, true) || changed) save(device_line(intent_, index_of(opened.device)));
  set_state(opened.device, *device, DeviceState::available);
  reply(device->waiting, Json{{"device", to_string(opened.device)}});
}

void Node::on(const DeviceLost& lost) {
  auto* device = own(lost.device);
  if (device == nullptr) return;
  quarantine(lost.device, *device, lost.why);
}

} // namespace smartio::core
