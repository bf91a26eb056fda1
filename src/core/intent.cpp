#include "intent.hpp"

namespace smartio::core {
namespace {

Result<void> parse_devices(const Json& list, Intent& intent) {
  for (const auto& item : list) {
    const auto index = static_cast<std::uint16_t>(TRY(get_number(item, "index", 0xffff)));
    Intent::Device device;
    device.address = TRY(get_string(item, "address"));
    device.available = TRY(get_bool(item, "available"));
    device.without_reset = get_bool(item, "without_reset").value_or(false);
    intent.devices[index] = std::move(device);
  }
  return {};
}

Result<void> parse_connections(const Json& list, Intent& intent) {
  for (const auto& item : list) {
    const auto node = TRY(get_node(item, "node"));
    intent.connections[node] = TRY(get_string(item, "address"));
  }
  return {};
}

Result<void> parse_filters(const Json& list, Intent& intent) {
  for (const auto& item : list) {
    FilterRule rule;
    rule.ids = TRY(get_string(item, "ids"));
    rule.slot = TRY(get_string(item, "slot"));
    rule.available = TRY(get_bool(item, "available"));
    intent.filters.insert(std::move(rule));
  }
  return {};
}

Result<void> parse_removed(const Json& list, Intent& intent) {
  for (const auto& item : list) {
    const auto* address = item.get_ptr<const std::string*>();
    if (address == nullptr) return fail(Errc::bad_request, "'removed' holds something that is no address");
    intent.removed.insert(*address);
  }
  return {};
}

} // namespace

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const auto comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
  }
  return parts;
}

std::string encode(const Intent& intent, NodeId node) {
  Json state{{"schema_version", 1},          {"node", number(node)},      {"devices", Json::array()},
             {"connections", Json::array()}, {"options", intent.options}, {"filters", Json::array()},
             {"removed", intent.removed}};
  for (const auto& [index, device] : intent.devices) {
    auto& entry = state["devices"].emplace_back(
        Json{{"index", index}, {"address", device.address}, {"available", device.available}});
    if (device.without_reset) entry["without_reset"] = true;
  }
  for (const auto& [peer, address] : intent.connections)
    state["connections"].push_back({{"node", static_cast<unsigned>(peer)}, {"address", address}});
  for (const auto& rule : intent.filters)
    state["filters"].push_back({{"ids", rule.ids}, {"slot", rule.slot}, {"available", rule.available}});
  return state.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Intent> parse_intent(std::string_view text, NodeId node) {
  const auto state = TRY(parse_object(text));
  const auto version = TRY(get_number(state, "schema_version"));
  if (version != 1) return fail(Errc::bad_request, "its version {} is not known", version);
  const auto owner = TRY(get_node(state, "node"));
  if (owner != node) return fail(Errc::bad_request, "it belongs to node {}", static_cast<unsigned>(owner));
  Intent intent;
  for (const char* part : {"devices", "connections", "filters", "removed"})
    if (!state.contains(part) || !state[part].is_array()) return fail(Errc::bad_request, "'{}' is missing", part);
  const auto options = state.find("options");
  if (options == state.end() || !options->is_object()) return fail(Errc::bad_request, "'options' is missing");
  TRY(parse_devices(state["devices"], intent));
  TRY(parse_connections(state["connections"], intent));
  TRY(parse_filters(state["filters"], intent));
  TRY(parse_removed(state["removed"], intent));
  for (const auto& [name, value] : options->items()) intent.options[name] = TRY(get_string(*options, name.c_str()));
  return intent;
}

} // namespace smartio::core
