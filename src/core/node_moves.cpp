// Devices of this host that are not where they were: another one is in their place, or none, and they may be elsewhere.
#include "bdf.hpp"
#include "node.hpp"

#include <algorithm>

namespace smartio::core {

/// Whether the entry's device is what is there now; learns what is not known of it yet.
Result<void> Node::check_identity(OwnDevices::Index index, const Identity& there) {
  auto& entry = intent_.devices.at(index);
  TRY(check_same(entry.who, there.who));
  const auto asked = check_asked(entry.who, there.who, there.driver);
  devices_.find(index)->unidentified = !asked;
  TRY(asked);
  auto known = joined(there.who, entry.who);
  if (entry.who == known) return {};
  entry.who = std::move(known);
  save(device_line(intent_, index));
  return {};
}

/// Keeps in mind which entries have lost their device, and looks for that. A bridge there: the buses have new numbers.
void Node::note_whereabouts(OwnDevices::Index index, const DeviceProbed& probed) {
  const auto& entry = intent_.devices.at(index);
  if (!parse_bdf(entry.address)) return;
  const auto error = probed.identity ? std::error_code() : probed.identity.error().code;
  const bool gone = error ? error == Errc::no_such_device || error == Errc::not_permitted
                          : !check_same(entry.who, probed.identity->who);
  if (!gone && error) return;
  if (!gone) return void(missing_.erase(index));
  missing_.insert(index);
  look_for_missing();
}

void Node::look_for_missing() {
  if (missing_.empty()) return;
  look_again_ = looking_;
  if (!std::exchange(looking_, true)) effects_.push_back(FindDevices{});
}

void Node::on(const DeviceIdentified& identified) {
  look_for_missing();
  const auto id = own_by_address(identified.address);
  if (!id) return;
  auto& device = *own(*id);
  const auto entry = intent_.devices.find(index_of(*id));
  // Nor was its number known when it was added. With a reason it was tried, and its driver only has it back.
  const bool is_news =
      device.reason.empty() && entry != intent_.devices.end() && !entry->second.who.serials.contains(nvme_serial);
  device.identified = device.asked == Asked::probe;
  if (device.state == DeviceState::unavailable && device.asked == Asked::nothing && (device.unidentified || is_news))
    probe(*id, device);
}

/// Each missing device is where one function, and no more, is surely it.
void Node::on(const DevicesFound& found) {
  looking_ = false;
  for (const auto index : std::set(missing_)) {
    const auto entry = intent_.devices.find(index);
    if (entry == intent_.devices.end()) continue;
    const auto is_it = [&entry](const Seen& seen) { return is_surely(entry->second.who, seen.who); };
    const auto at = std::ranges::find_if(found.seen, is_it);
    if (std::ranges::count_if(found.seen, is_it) == 1) this->found(index, *at);
  }
  if (look_again_) look_for_missing();
}

void Node::found(OwnDevices::Index index, const Seen& seen) {
  const auto& [address, who] = seen;
  const auto can_move = [this](OwnDevices::Index of) {
    const auto* device = devices_.find(of);
    return missing_.contains(of) && device != nullptr && device->state == DeviceState::unavailable &&
           device->asked == Asked::nothing;
  };
  if (!can_move(index)) return;
  auto& device = *devices_.find(index);
  if (device.address == address) return void(missing_.erase(index));
  const auto other = devices_.by_address(address);
  if (!other || (can_move(*other) && !is_surely(intent_.devices.at(*other).who, who))) return move(index, address);
  device.reason = fmt::format("it is device {} at {} now", to_string(make_device_id(settings_.node, *other)), address);
}

/// The entry goes with its device. Of two that have changed places, the other's goes to where this one was.
void Node::move(OwnDevices::Index index, const std::string& address) {
  std::set<OwnDevices::Index> moved{index};
  if (const auto other = devices_.by_address(address)) moved.insert(*other);
  const auto before = devices_.find(index)->address;
  devices_.move(index, address);
  for (const auto each : moved) intent_.devices.at(each).address = devices_.find(each)->address;
  save(device_lines(intent_, moved));
  for (const auto each : moved) {
    auto& device = *devices_.find(each);
    const auto id = make_device_id(settings_.node, each);
    const auto& from = each == index ? before : address;
    log(5, fmt::format("device {} is at {} now; it was at {}", to_string(id), device.address, from));
    emit("device-moved", {{"device", to_string(id)}, {"address", device.address}, {"before", from}});
    device.vanished = false;
    announce(id);
    probe(id, device);
  }
}

} // namespace smartio::core
