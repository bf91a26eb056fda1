// Filters: rules in lspci's syntax that add devices and make them available, now and when they appear. The shell
// tells which addresses match; what follows is what the commands for single devices do.
#include "node.hpp"

#include <algorithm>
#include <fmt/ranges.h>

namespace smartio::core {

void Node::scan(Scan scan) {
  if (scan.purpose == ScanFor::appeared) scan.rules.assign(intent_.filters.begin(), intent_.filters.end());
  if (scan.rules.empty()) return;
  const auto request = next_request_++;
  std::vector<Added> added;
  for (const auto& [index, device] : devices_)
    added.push_back({device.address, device.identity.vendor, device.identity.device, device.identity.class_code});
  effects_.push_back(ScanHost{request, scan.rules, std::move(added)});
  scans_[request] = std::move(scan);
}

void Node::command_filter(Command& c) {
  static const std::map<std::string_view, ScanFor> purposes{{"add-filter", ScanFor::add},
                                                            {"available-filter", ScanFor::available},
                                                            {"unavailable-filter", ScanFor::unavailable},
                                                            {"remove-filter", ScanFor::remove}};
  const auto purpose = purposes.at(c.name);
  FilterRule rule{.ids = get_string(c.arguments, "ids").value_or(""),
                  .slot = get_string(c.arguments, "slot").value_or(""),
                  .available = purpose == ScanFor::available || purpose == ScanFor::unavailable};
  if (rule.ids.empty() && rule.slot.empty())
    return reply(c.request, fail(Errc::bad_request, "a filter needs -d [vendor]:[device][:class] or "
                                                    "-s [[[domain]:]bus:][slot][.func]"));
  std::vector<FilterRule> rules{std::move(rule)};
  if (purpose == ScanFor::remove) // the others that add devices: theirs stay
    for (const auto& other : intent_.filters)
      if (!other.available && other != rules.front()) rules.push_back(other);
  scan({.purpose = purpose, .rules = std::move(rules), .request = c.request});
}

/// Tries again what was added but could not be reached, and looks for devices that a filter wants.
void Node::command_scan(Command& c) {
  Json found = Json::array();
  for (auto& [index, device] : devices_) {
    if (device.state != DeviceState::unavailable || device.asked != Asked::nothing || device.reason.empty()) continue;
    const auto id = make_device_id(settings_.node, index);
    device.reason.clear();
    probe(id, device);
    found.push_back(to_string(id));
  }
  if (intent_.filters.empty()) return reply(c.request, Json{{"found", std::move(found)}});
  const auto batch = c.request; // what was found so far is answered together with what the filters add
  batches_[batch] = Batch{.request = c.request, .devices = std::move(found)};
  scan({.purpose = ScanFor::appeared, .rules = {}, .request = c.request});
}

void Node::on(const HostScanned& scanned) {
  auto node = scans_.extract(scanned.request);
  if (node.empty()) return;
  const Scan scan = std::move(node.mapped());
  if (scan.purpose == ScanFor::appeared) {
    if (!scanned.matches) log(4, fmt::format("the filters cannot be applied: {}", to_string(scanned.matches.error())));
    auto matches = scanned.matches.value_or(Matches{});
    for (std::size_t i = 0; i < std::min(scan.rules.size(), matches.size()); ++i)
      if (!intent_.filters.contains(scan.rules[i])) matches[i].clear(); // deleted meanwhile
    Json added = add_matches(scan, matches);
    if (!scan.request) return;
    auto found = std::move(batches_.at(*scan.request).devices);
    batches_.erase(*scan.request);
    for (auto& id : added) found.push_back(std::move(id));
    return reply(*scan.request, Json{{"found", std::move(found)}}, note_of_removed(scan.rules, matches));
  }
  if (!scanned.matches) return reply(*scan.request, std::unexpected(scanned.matches.error()));
  apply_filter(scan, *scanned.matches);
}

/// Stores or deletes the rule; false: there is none that could be deleted.
bool Node::store(const Scan& scan) {
  auto rule = scan.rules.front();
  const bool stores = scan.purpose == ScanFor::add || scan.purpose == ScanFor::available;
  bool changed = stores ? intent_.filters.insert(rule).second : intent_.filters.erase(rule) != 0;
  rule.available = true;
  if (scan.purpose == ScanFor::remove) changed = intent_.filters.erase(rule) != 0 || changed;
  if (changed) save(filters_line(intent_));
  return changed || scan.purpose != ScanFor::remove;
}

/// Does to each match what the command of that name does.
void Node::apply_filter(const Scan& scan, const Matches& matches) {
  const bool added = intent_.filters.contains(scan.rules.front());
  if (!store(scan))
    return reply(*scan.request, fail(Errc::no_such_device, "there is no such filter: 'filters' lists those there are"));
  const auto addresses = matches.empty() ? std::vector<std::string>{} : matches.front();
  const auto batch = next_request_++;
  batches_[batch] = Batch{.request = *scan.request};
  std::string note;
  if (addresses.empty()) note = "no device matches";
  if (addresses.empty() && (scan.purpose == ScanFor::add || scan.purpose == ScanFor::available))
    note += " now; the filter is kept";
  if (scan.purpose == ScanFor::add) note += note_of_removed({scan.rules.front()}, matches);
  std::set<std::string_view> others; // that other filters add
  for (std::size_t i = 1; i < std::min(scan.rules.size(), matches.size()); ++i)
    if (intent_.filters.contains(scan.rules[i])) others.insert(matches[i].begin(), matches[i].end());
  const bool left = scan.purpose == ScanFor::remove && !added; // a filter that made available what others had added
  for (const auto& address : left ? std::vector<std::string>{} : addresses)
    if (const auto why = apply(scan, others, address, batch); !why.empty()) note += (note.empty() ? "" : "; ") + why;
  batches_[batch].note = std::move(note);
  finish_batch(batch);
  // A filter that came meanwhile may add what has just been taken out.
  if (scan.purpose == ScanFor::remove) this->scan({.purpose = ScanFor::appeared, .rules = {}});
}

/// Why it stays as it is, if somebody should be told.
std::string Node::apply(const Scan& scan, const std::set<std::string_view>& others, const std::string& address,
                        RequestId batch) {
  if (scan.purpose == ScanFor::add && !intent_.removed.contains(address)) start_part(batch, "add", address);
  const auto id = own_by_address(address);
  if (!id) return {};
  if (scan.purpose == ScanFor::available) start_part(batch, "available", address);
  if (scan.purpose == ScanFor::unavailable) start_part(batch, "unavailable", address);
  return scan.purpose == ScanFor::remove ? take_out(others, *id, batch) : std::string{};
}

/// What a filter has added, unless somebody still wants it.
std::string Node::take_out(const std::set<std::string_view>& others, DeviceId id, RequestId batch) {
  const auto& device = *own(id);
  const auto entry = intent_.devices.find(index_of(id));
  const bool by_filter = entry == intent_.devices.end() ? device.by_filter : entry->second.by_filter;
  std::string why;
  if (device.state != DeviceState::unavailable) why = fmt::format("it is {}", to_string(device.state));
  if (device.asked != Asked::nothing) why = "it is being added, or made available or unavailable";
  if (!by_filter) why = "it was added by hand";
  if (others.contains(device.address)) why = "another filter adds it, too";
  if (!why.empty()) return fmt::format("device {} stays: {}", to_string(id), why);
  start_part(batch, "remove", device.address);
  return {};
}

/// Which matches of filters that add devices stay removed.
std::string Node::note_of_removed(const std::vector<FilterRule>& rules, const Matches& matches) const {
  std::set<std::string> removed;
  for (std::size_t i = 0; i < std::min(rules.size(), matches.size()); ++i)
    for (const auto& address : matches[i])
      if (!rules[i].available && intent_.removed.contains(address)) removed.insert(address);
  if (removed.empty()) return {};
  return fmt::format("removed by hand, and not added again but with 'add': {}", fmt::join(removed, ", "));
}

/// Adds what the stored rules match and nobody has removed by hand; gives the new ids.
Json Node::add_matches(const Scan& scan, const Matches& matches) {
  Json added = Json::array();
  const auto count = std::min(scan.rules.size(), matches.size());
  const auto wanted = [&scan, &matches, count](const std::string& address) {
    for (std::size_t i = 0; i < count; ++i)
      if (scan.rules[i].available && std::ranges::find(matches[i], address) != matches[i].end()) return true;
    return false;
  };
  for (std::size_t i = 0; i < count; ++i)
    for (const auto& address : matches[i]) {
      if (scan.rules[i].available || intent_.removed.contains(address) || own_by_address(address)) continue;
      start_part(0, "add", address);
      const auto id = own_by_address(address);
      if (!id) continue;
      own(*id)->wanted = wanted(address);
      added.push_back(to_string(*id));
    }
  return added;
}

/// Carries out a command on one device. Without a batch its outcome shows in the list and the log only.
void Node::start_part(RequestId batch, const char* name, const std::string& address) {
  const auto part = next_request_++;
  parts_[part] = batch;
  if (const auto found = batches_.find(batch); found != batches_.end()) ++found->second.open;
  Command command{part, 0, name, Json{{"device", address}}};
  on(command);
}

bool Node::finish_part(RequestId part, const Result<Json>& result) {
  const auto found = parts_.extract(part);
  if (found.empty()) return false;
  const auto batch = batches_.find(found.mapped());
  if (batch == batches_.end()) {
    if (!result) log(4, to_string(result.error()));
    return true;
  }
  if (result)
    batch->second.devices.push_back((*result)["device"]);
  else
    batch->second.failures.push_back(result.error());
  finish_batch(batch->first);
  return true;
}

void Node::finish_batch(RequestId id) {
  auto& open = batches_.at(id);
  if (--open.open != 0) return;
  Batch batch = std::move(batches_.extract(id).mapped());
  if (batch.failures.empty()) {
    std::sort(batch.devices.begin(), batch.devices.end());
    return reply(batch.request, Json{{"devices", std::move(batch.devices)}}, std::move(batch.note));
  }
  std::string text =
      fmt::format("{} of {} devices failed", batch.failures.size(), batch.failures.size() + batch.devices.size());
  for (const auto& failure : batch.failures) text += "; " + to_string(failure);
  reply(batch.request, std::unexpected(Error{batch.failures.front().code, std::move(text)}), std::move(batch.note));
}

} // namespace smartio::core
