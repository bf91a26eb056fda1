#include "intent.hpp"

#include "addresses.hpp"
#include "bdf.hpp"

namespace smartio::core {
namespace {

constexpr unsigned schema_version = 1; ///< also that of every earlier file

/// Earlier versions kept none.
Result<Who> parse_who(const Json& item) {
  const auto found = item.find("who");
  if (found == item.end()) return Who{};
  Who who{.kind = TRY(get_string(*found, "kind"))};
  const auto serials = found->find("serials");
  if (serials == found->end() || !serials->is_object()) return fail(Errc::bad_request, "'serials' is missing");
  for (const auto& [name, value] : serials->items()) who.serials[name] = TRY(get_string(*serials, name.c_str()));
  return who;
}

/// Those without an address are there no more.
Result<void> parse_device(const Json& item, std::set<std::string>& seen, Intent& intent) {
  const auto index = static_cast<std::uint16_t>(TRY(get_number(item, "index", 0xffff)));
  if (!seen.insert(std::to_string(index)).second) return fail(Errc::bad_request, "index {} is given twice", index);
  if (item.contains("address") && item["address"].is_null()) {
    intent.devices.erase(index);
    return {};
  }
  Intent::Device device;
  const auto address = TRY(get_string(item, "address"));
  device.address = TRY(parse_address(address));
  device.available = TRY(get_bool(item, "available"));
  device.without_reset = item.contains("without_reset") && TRY(get_bool(item, "without_reset"));
  if (device.without_reset && parse_bdf(device.address))
    return fail(Errc::bad_request, "{} is a device of the host: it is not lent without a reset", device.address);
  device.by_filter = item.contains("by_filter") && TRY(get_bool(item, "by_filter"));
  device.who = TRY(parse_who(item));
  intent.devices[index] = std::move(device);
  return {};
}

Result<void> parse_connection(const Json& item, std::set<std::string>& seen, Intent& intent) {
  const auto node = TRY(get_node(item, "node"));
  if (!seen.insert(std::to_string(number(node))).second)
    return fail(Errc::bad_request, "node {} is given twice", number(node));
  if (item.contains("address") && item["address"].is_null()) {
    intent.connections.erase(node);
    return {};
  }
  intent.connections[node] = TRY(get_string(item, "address"));
  return check_endpoint(intent.connections[node]);
}

Result<void> parse_filter(const Json& item, std::set<std::string>&, Intent& intent) {
  FilterRule rule;
  rule.ids = TRY(get_string(item, "ids"));
  rule.slot = TRY(get_string(item, "slot"));
  rule.available = TRY(get_bool(item, "available"));
  intent.filters.insert(std::move(rule));
  return {};
}

Result<void> parse_removed(const Json& item, std::set<std::string>&, Intent& intent) {
  const auto* text = item.get_ptr<const std::string*>();
  if (text == nullptr) return fail(Errc::bad_request, "this is no address");
  intent.removed.insert(TRY(parse_address(*text)));
  return {};
}

Result<void> parse_options(const Json& options, Intent& intent) {
  intent.options.clear();
  for (const auto& [name, value] : options.items()) {
    const auto text = TRY(get_string(options, name.c_str()));
    intent.options[name] = TRY(parse_option(name, text));
  }
  return {};
}

/// Each of a list's; a mistake is said with its place in it.
template <auto parse_one> Result<void> parse_list(const Json& list, Intent& intent) {
  std::set<std::string> seen;
  for (std::size_t i = 0; i < list.size(); ++i)
    if (const auto done = parse_one(list[i], seen, intent); !done)
      return fail(Errc::bad_request, "entry {}: {}", i + 1, done.error().context);
  return {};
}

/// Of these a line holds all.
Result<void> parse_filters(const Json& list, Intent& intent) {
  intent.filters.clear();
  return parse_list<parse_filter>(list, intent);
}
Result<void> parse_all_removed(const Json& list, Intent& intent) {
  intent.removed.clear();
  return parse_list<parse_removed>(list, intent);
}

struct Part {
  const char* name;
  Json::value_t type;
  Result<void> (*parse)(const Json&, Intent&);
};
constexpr Part parts[] = {{"devices", Json::value_t::array, parse_list<parse_device>},
                          {"connections", Json::value_t::array, parse_list<parse_connection>},
                          {"options", Json::value_t::object, parse_options},
                          {"filters", Json::value_t::array, parse_filters},
                          {"removed", Json::value_t::array, parse_all_removed}};

/// `all`: none is missing.
Result<void> parse_parts(const Json& state, bool all, Intent& intent) {
  for (const auto& part : parts) {
    const auto found = state.find(part.name);
    if (found == state.end() && !all) continue;
    if (found == state.end() || found->type() != part.type)
      return fail(Errc::bad_request, "'{}' is missing", part.name);
    if (const auto done = part.parse(*found, intent); !done)
      return fail(Errc::bad_request, "'{}': {}", part.name, done.error().context);
  }
  return {};
}

Result<void> check_owner(const Json& state, NodeId node) {
  const auto version = TRY(get_number(state, "schema_version"));
  if (version != schema_version)
    return fail(Errc::bad_request, "it is of version {}, which is not known: this smartio writes version {}", version,
                schema_version);
  const auto owner = TRY(get_node(state, "node"));
  if (owner != node)
    return fail(Errc::bad_request, "it belongs to node {}: give node {} a state directory of its own", number(owner),
                number(node));
  return {};
}

Json json_of(std::uint16_t index, const Intent::Device& device) {
  Json json{{"index", index}, {"address", device.address}, {"available", device.available}};
  if (device.without_reset) json["without_reset"] = true;
  if (device.by_filter) json["by_filter"] = true;
  if (!device.who.kind.empty()) json["who"] = {{"kind", device.who.kind}, {"serials", device.who.serials}};
  return json;
}

Json json_of(NodeId peer, const std::string& address) { return {{"node", number(peer)}, {"address", address}}; }

Json json_of(const std::set<FilterRule>& filters) {
  Json list = Json::array();
  for (const auto& rule : filters)
    list.push_back({{"ids", rule.ids}, {"slot", rule.slot}, {"available", rule.available}});
  return list;
}

std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

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
  Json devices = Json::array(), connections = Json::array();
  for (const auto& [index, device] : intent.devices) devices.push_back(json_of(index, device));
  for (const auto& [peer, address] : intent.connections) connections.push_back(json_of(peer, address));
  return line_of({{"schema_version", schema_version},
                  {"node", number(node)},
                  {"devices", std::move(devices)},
                  {"connections", std::move(connections)},
                  {"options", intent.options},
                  {"filters", json_of(intent.filters)},
                  {"removed", intent.removed}});
}

std::string device_line(const Intent& intent, std::uint16_t index) { return device_lines(intent, {index}); }

std::string device_lines(const Intent& intent, const std::set<std::uint16_t>& indices) {
  Json list = Json::array();
  for (const auto index : indices) {
    const auto device = intent.devices.find(index);
    list.push_back(device == intent.devices.end() ? Json{{"index", index}, {"address", nullptr}}
                                                  : json_of(index, device->second));
  }
  return line_of({{"devices", std::move(list)}});
}

std::string connection_line(const Intent& intent, NodeId peer) {
  const auto found = intent.connections.find(peer);
  return line_of({{"connections",
                   Json::array({found == intent.connections.end() ? Json{{"node", number(peer)}, {"address", nullptr}}
                                                                  : json_of(peer, found->second)})}});
}

std::string options_line(const Intent& intent) { return line_of({{"options", intent.options}}); }
std::string filters_line(const Intent& intent) { return line_of({{"filters", json_of(intent.filters)}}); }
std::string removed_line(const Intent& intent) { return line_of({{"removed", intent.removed}}); }

namespace {

/// Two entries for one device would be lent as two.
Result<void> check_addresses(const Intent& intent) {
  std::map<std::string_view, std::uint16_t> seen;
  for (const auto& [index, device] : intent.devices)
    if (const auto [other, fresh] = seen.emplace(device.address, index); !fresh)
      return fail(Errc::bad_request, "'devices': {} is given twice, with index {} and {}", device.address,
                  other->second, index);
  return {};
}

Result<Intent> parse_lines(const Json& first, std::string_view changes) {
  Intent intent;
  TRY(parse_parts(first, true, intent));
  std::size_t end = 0;
  for (unsigned line = 2; (end = changes.find('\n')) != std::string_view::npos; ++line) {
    const auto change = TRY(parse_object(changes.substr(0, end), line));
    if (const auto done = parse_parts(change, false, intent); !done)
      return fail(Errc::bad_request, "line {}: {}", line, done.error().context);
    changes.remove_prefix(end + 1);
  }
  TRY(check_addresses(intent));
  return intent;
}

std::unexpected<Error> damaged(const Error& error) {
  return fail(Errc::bad_request, "it is damaged: {}; move it away to start anew", printable(error.context));
}

} // namespace

Result<Intent> parse_intent(std::string_view text, NodeId node) {
  auto end = text.find('\n');
  auto state = parse_object(text.substr(0, end));
  if (!state) { // earlier versions wrote it over many lines, without changes behind it
    end = std::string_view::npos;
    state = parse_object(text);
  }
  if (!state) return damaged(state.error());
  TRY(check_owner(*state, node));
  auto intent = parse_lines(*state, end == std::string_view::npos ? std::string_view{} : text.substr(end + 1));
  if (!intent) return damaged(intent.error());
  return intent;
}

} // namespace smartio::core
