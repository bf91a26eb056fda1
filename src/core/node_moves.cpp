// Devices of this host that are not where they were: another one is in their place, or none, and they may be elsewhere.
#include "addresses.hpp"
#include "bdf.hpp"
#include "node.hpp"

namespace smartio::core {

/// Whether the entry's device is what is there now; learns what is not known of it yet.
Result<void> Node::check_identity(OwnDevices::Index index, const Identity& there) {
  auto& entry = intent_.devices.at(index);
  TRY(check_same(entry.who, there.who));
  // Of a controller that has just appeared: the kernel's driver asks for the number, and says when it has it.
  const bool asked = !there.driver.empty() && (there.driver != "nvme" || there.who.serials.contains("nvme"));
  auto& unidentified = devices_.find(index)->unidentified;
  unidentified = entry.who.serials.contains("nvme") && !asked;
  if (unidentified) return fail(Errc::wrong_state, "its serial number is not known yet, so it may be another device");
  auto known = joined(there.who, entry.who);
  if (entry.who == known) return {};
  entry.who = std::move(known);
  save(device_line(intent_, index));
  return {};
}

/// Keeps in mind which entries have lost their device, and looks for that.
void Node::note_whereabouts(OwnDevices::Index index, const DeviceProbed& probed) {
  const auto& entry = intent_.devices.at(index);
  if (!parse_bdf(entry.address)) return;
  const bool gone = probed.identity ? !check_same(entry.who, probed.identity->who)
                                    : probed.identity.error().code == Errc::no_such_device;
  if (!gone) return void(missing_.erase(index));
  missing_.insert(index);
  look_for(index);
}

void Node::look_for(OwnDevices::Index index) {
  const auto entry = intent_.devices.find(index);
  if (entry == intent_.devices.end() || entry->second.who.serials.empty()) return;
  effects_.push_back(FindDevice{make_device_id(settings_.node, index), entry->second.address, entry->second.who});
}

void Node::look_for_all() {
  for (const auto index : missing_) look_for(index);
}

void Node::on(const DeviceIdentified& identified) {
  const auto id = own_by_address(identified.address);
  auto* device = id ? own(*id) : nullptr;
  if (device == nullptr) return look_for_all();
  if (device->state == DeviceState::unavailable && device->asked == Asked::nothing && device->unidentified)
    probe(*id, *device);
}

void Node::on(const DeviceFound& found) {
  const auto index = index_of(found.device);
  auto* device = own(found.device);
  if (device == nullptr || !found.address || !missing_.contains(index) || *found.address == device->address) return;
  if (device->state != DeviceState::unavailable || device->asked != Asked::nothing) return;
  const auto other = devices_.by_address(*found.address);
  if (!other) return move(index, *found.address);
  const auto& there = devices_.find(*other);
  if (missing_.contains(*other) && there->state == DeviceState::unavailable && there->asked == Asked::nothing)
    return move(index, *found.address);
  device->reason =
      fmt::format("it is device {} at {} now", to_string(make_device_id(settings_.node, *other)), *found.address);
}

/// The entry goes with its device. Of two that have changed places, the other's goes to where this one was.
void Node::move(OwnDevices::Index index, const std::string& address) {
  const auto before = devices_.find(index)->address;
  const auto other = devices_.by_address(address);
  devices_.move(index, address);
  for (const auto moved : {std::optional(index), other}) {
    if (!moved) continue;
    auto& device = *devices_.find(*moved);
    const auto id = make_device_id(settings_.node, *moved);
    intent_.devices.at(*moved).address = device.address;
    save(device_line(intent_, *moved));
    device.vanished = false;
    probe(id, device);
  }
  const auto id = make_device_id(settings_.node, index);
  log(5, fmt::format("device {} is at {} now; it was at {}", to_string(id), address, before));
  emit("device-moved", {{"device", to_string(id)}, {"address", address}, {"before", before}});
  announce(id);
}

} // namespace smartio::core
