#include "node_documents.hpp"

#include "bdf.hpp"
#include "enum_names.hpp"
#include "host/filter.hpp"
#include "text.hpp"

namespace smartio {

using core::Json;

namespace {

Result<std::uint32_t> hex(const Json& object, const char* key) {
  const auto text = TRY(core::get_string(object, key));
  const auto value = parse_number(text, 16, UINT32_MAX);
  if (!value) return fail(Errc::bad_request, "the node sent '{}' as {}", text, key);
  return static_cast<std::uint32_t>(*value);
}

/// What a later version knows stands for the last one that this one does.
template <class Enum, std::size_t n>
Result<Enum> named(const Json& object, const char* key, const std::array<std::string_view, n>& names) {
  const auto text = TRY(core::get_string(object, key));
  return value_in<Enum>(names, text).value_or(static_cast<Enum>(n - 1));
}

Result<std::string> parse_text(const Json& text) {
  const auto* found = text.get_ptr<const std::string*>();
  if (found == nullptr) return fail(Errc::bad_request, "the node sent something else than text");
  return *found;
}

Result<Filters::Rule> parse_rule(const Json& rule) {
  return Filters::Rule{{.ids = TRY(core::get_string(rule, "ids")), .slot = TRY(core::get_string(rule, "slot"))},
                       TRY(core::get_bool(rule, "available"))};
}

constexpr std::array<std::string_view, 3> roles{"lender", "borrower", "self"}, states{"up", "down", "connecting"};

} // namespace

Result<DeviceId> parse_id(const Json& text) { return parse_device_id(TRY(parse_text(text))); }

Result<DeviceInfo> parse_device_info(const Json& object) {
  DeviceInfo info;
  info.id = TRY(core::get_device(object, "id"));
  info.node = TRY(core::get_node(object, "node"));
  info.address = TRY(core::get_string(object, "address"));
  info.name = TRY(core::get_string(object, "name"));
  info.vendor = static_cast<std::uint16_t>(TRY(hex(object, "vendor")));
  info.device = static_cast<std::uint16_t>(TRY(hex(object, "device")));
  info.class_code = TRY(hex(object, "class"));
  const auto state = TRY(core::get_string(object, "state"));
  info.state = parse_device_state(state).value_or(DeviceState::unavailable);
  info.borrower = static_cast<NodeId>(core::get_number(object, "borrower", 65535).value_or(0));
  info.reachable = TRY(core::get_bool(object, "reachable"));
  return info;
}

Result<DeviceInfo> parse_shown_device(const Json& shown) {
  const auto device = shown.find("device");
  if (device == shown.end()) return fail(Errc::bad_request, "the node sent nothing about the device");
  return parse_device_info(*device);
}

Result<PeerInfo> parse_peer(const Json& object) {
  return PeerInfo{.node = TRY(core::get_node(object, "node")),
                  .address = TRY(core::get_string(object, "address")),
                  .role = TRY(named<PeerRole>(object, "role", roles)),
                  .state = TRY(named<PeerState>(object, "state", states))};
}

Result<LoanInfo> parse_loan(const Json& object) {
  LoanInfo loan{.device = TRY(core::get_device(object, "device")),
                .borrower = TRY(core::get_node(object, "borrower")),
                .epoch = TRY(core::get_number(object, "epoch")),
                .shared = TRY(core::get_bool(object, "shared")),
                .socket = core::get_string(object, "socket").value_or("")};
  if (const auto pid = core::get_number(object, "pid", INT32_MAX)) loan.pid = static_cast<int>(*pid);
  loan.windows = TRY(core::get_number(object, "windows"));
  loan.window_bytes = TRY(core::get_number(object, "window_bytes"));
  loan.vectors = TRY(core::get_number(object, "vectors"));
  return loan;
}

Result<Filters> parse_filters(const Json& object) {
  Filters filters;
  filters.rules = TRY(parse_all<Filters::Rule>(object, "filters", parse_rule));
  filters.removed = TRY(parse_all<std::string>(object, "removed", parse_text));
  return filters;
}

Result<std::map<std::string, std::string>> parse_options(const Json& object) {
  std::map<std::string, std::string> options;
  const auto found = object.find("options");
  if (found == object.end() || !found->is_object()) return fail(Errc::bad_request, "the node sent no options");
  for (const auto& [name, value] : found->items()) options[name] = TRY(core::get_string(*found, name.c_str()));
  return options;
}

Result<std::vector<std::byte>> parse_hex(const std::string& digits) {
  std::vector<std::byte> bytes;
  for (std::size_t at = 0; at < digits.size(); at += 2) {
    const auto byte = parse_number(std::string_view(digits).substr(at, 2), 16);
    if (!byte || at + 1 == digits.size()) return fail(Errc::bad_request, "the node sent no bytes in hex");
    bytes.push_back(static_cast<std::byte>(*byte));
  }
  return bytes;
}

Result<std::function<bool(const DeviceInfo&)>> matcher(const Filter& filter) {
  if (filter.ids.empty() && filter.slot.empty()) return [](const DeviceInfo&) { return true; };
  const auto parsed = TRY(vfio::host::Filter::parse(filter.ids, filter.slot));
  return [parsed, by_slot = !filter.slot.empty()](const DeviceInfo& info) {
    const auto bdf = parse_bdf(info.address);
    vfio::host::Function function;
    function.bdf = bdf.value_or(Bdf{});
    function.vendor = info.vendor;
    function.device = info.device;
    function.class_code = info.class_code;
    return (bdf || !by_slot) && parsed.matches(function);
  };
}

} // namespace smartio
