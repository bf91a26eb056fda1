#include "message.hpp"

#include "enum_names.hpp"
#include "json.hpp"

#include <algorithm>
#include <array>

namespace smartio::core {
namespace {

constexpr std::array<std::string_view, 10> errc_names{"no_such_device", "no_such_node", "wrong_state", "busy",
                                                      "revoked",        "peer_down",    "timed_out",   "no_window",
                                                      "bad_request",    "not_permitted"};
constexpr std::array<std::string_view, 3> form_names{"vfio", "raw", "emulated"};
constexpr std::size_t longest_config = 2 * 4096; // PCI Express Base 5.0, 7.2.2: 4096 bytes a function

Result<std::string> get_text(const Json& object, const char* key) {
  auto text = TRY(get_string(object, key));
  if (text.size() > text_limit) return fail(Errc::bad_request, "'{}' is longer than {} bytes", key, text_limit);
  return text;
}

/// What decode() takes. Bytes that are no UTF-8 grow to three when they are replaced.
std::string cut(const std::string& text) {
  const bool ascii = std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return text.substr(0, ascii ? text_limit : text_limit / 3);
}

std::string text_of(const DeviceEntry& entry) {
  return fmt::format(
      R"({{"address":{},"borrower":{},"class":{},"device":{},"id":"{}","name":{},"state":"{}","vendor":{}}})",
      json_text(cut(entry.address)), static_cast<unsigned>(entry.borrower), entry.class_code, entry.device,
      to_string(entry.id), json_text(cut(entry.name)), to_string(entry.state), entry.vendor);
}

Result<DeviceEntry> parse_entry(const Json& object) {
  DeviceEntry entry;
  entry.id = TRY(get_device(object, "id"));
  entry.address = printable(TRY(get_text(object, "address")));
  entry.name = printable(TRY(get_text(object, "name")));
  entry.vendor = static_cast<std::uint16_t>(TRY(get_number(object, "vendor", 0xffff)));
  entry.device = static_cast<std::uint16_t>(TRY(get_number(object, "device", 0xffff)));
  entry.class_code = static_cast<std::uint32_t>(TRY(get_number(object, "class", 0xffffff)));
  const auto state_text = TRY(get_string(object, "state"));
  const auto state = parse_device_state(state_text);
  if (!state) return fail(Errc::bad_request, "'{}' is not a state of a device", state_text);
  entry.state = *state;
  entry.borrower = static_cast<NodeId>(TRY(get_number(object, "borrower", 0xffff)));
  // What contradicts itself is not passed on.
  if (entry.state == DeviceState::borrowed && entry.borrower == NodeId{}) entry.state = DeviceState::unavailable;
  if (entry.state == DeviceState::available || entry.state == DeviceState::unavailable) entry.borrower = {};
  return entry;
}

Json error_json(Errc code, const std::string& message) { return {{"code", name_of(code)}, {"message", cut(message)}}; }

Json body(const Hello& m) {
  return {{"type", "hello"},
          {"version", m.version},
          {"node", number(m.node)},
          {"to", static_cast<unsigned>(m.to)},
          {"boot_id", m.boot_id},
          {"nonce", m.nonce},
          {"fabrics",
           m.fabric_token.empty() ? Json::array() : Json::array({{{"kind", "local"}, {"token", m.fabric_token}}})}};
}
Json body(const Refused& m) { return {{"type", "refused"}, {"reason", cut(m.reason)}}; }
Json body(const BorrowRequest& m) {
  return {{"type", "borrow"}, {"number", m.number}, {"device", to_string(m.device)}, {"shared", m.shared}};
}
Json body(const ReturnRequest& m) {
  return {{"type", "return"}, {"number", m.number}, {"device", to_string(m.device)}, {"epoch", m.epoch}};
}
Json body(const Answer& m) {
  Json object{{"type", "answer"}, {"number", m.number}, {"epoch", m.epoch}};
  if (m.code != Errc{}) object["error"] = error_json(m.code, m.message);
  return object;
}
Json body(const TakenBack& m) {
  return {{"type", "taken_back"},
          {"device", to_string(m.device)},
          {"epoch", m.epoch},
          {"reason", cut(m.reason)},
          {"lost", m.lost}};
}
Json body(const Released& m) { return {{"type", "released"}, {"device", to_string(m.device)}, {"epoch", m.epoch}}; }
Json body(const Heartbeat& m) { return {{"type", "heartbeat"}, {"asks", m.asks}}; }
Json body(const ConfigRequest& m) {
  return {{"type", "config"},
          {"number", m.number},
          {"device", to_string(m.device)},
          {"form", form_names[static_cast<std::size_t>(m.form)]}};
}
Json body(const ConfigAnswer& m) {
  Json object{{"type", "config_answer"}, {"number", m.number}, {"hex", m.hex}};
  if (m.code != Errc{}) object["error"] = error_json(m.code, m.message);
  return object;
}

bool is_hex(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == text.npos; }

Result<std::string> get_hex(const Json& object, const char* key, std::size_t digits) {
  auto text = TRY(get_text(object, key));
  if (text.size() != digits || !is_hex(text)) return fail(Errc::bad_request, "'{}' is not {} hex digits", key, digits);
  return text;
}

/// The token of the local fabric; kinds this version does not know are passed over.
Result<std::string> local_token(const Json& object) {
  const auto fabrics = object.find("fabrics");
  if (fabrics == object.end() || !fabrics->is_array() || fabrics->size() > 16)
    return fail(Errc::bad_request, "'fabrics' is missing or not a short list");
  for (const auto& fabric : *fabrics) {
    const auto kind = TRY(get_text(fabric, "kind"));
    if (kind != "local") continue;
    return get_hex(fabric, "token", 32);
  }
  return std::string{};
}

Result<Message> parse_hello(const Json& object) {
  Hello m;
  m.version = TRY(get_number(object, "version"));
  m.node = TRY(get_node(object, "node"));
  m.to = static_cast<NodeId>(TRY(get_number(object, "to", 0xffff)));
  m.boot_id = TRY(get_text(object, "boot_id"));
  m.nonce = TRY(get_hex(object, "nonce", 64));
  m.fabric_token = TRY(local_token(object));
  return m;
}

Result<Message> parse_devices(const Json& object) {
  Devices m;
  const auto changed = object.find("changed"), removed = object.find("removed");
  if (changed == object.end() || removed == object.end() || !changed->is_array() || !removed->is_array())
    return fail(Errc::bad_request, "'changed' or 'removed' is missing or not a list");
  for (const auto& entry : *changed) m.changed.push_back(TRY(parse_entry(entry)));
  for (const auto& id : *removed) {
    const auto* text = id.get_ptr<const std::string*>();
    if (text == nullptr) return fail(Errc::bad_request, "'removed' holds something that is no device id");
    m.removed.push_back(TRY(parse_device_id(*text)));
  }
  return m;
}

Result<void> parse_error(const Json& object, Errc& code, std::string& message) {
  const auto error = object.find("error");
  if (error == object.end()) return {};
  const auto name = TRY(get_string(*error, "code"));
  code = parse_errc(name).value_or(Errc::bad_request);
  message = TRY(get_text(*error, "message"));
  return {};
}

Result<Message> parse_answer(const Json& object) {
  Answer m{TRY(get_number(object, "number")), 0, {}, {}};
  m.epoch = TRY(get_number(object, "epoch"));
  TRY(parse_error(object, m.code, m.message));
  return m;
}

Result<Message> parse_config_request(const Json& object) {
  ConfigRequest m{TRY(get_number(object, "number")), {}, {}};
  m.device = TRY(get_device(object, "device"));
  const auto text = TRY(get_string(object, "form"));
  const auto form = parse_form(text);
  if (!form) return fail(Errc::bad_request, "there is no form '{}' of a configuration space", text);
  m.form = *form;
  return m;
}

Result<Message> parse_config_answer(const Json& object) {
  ConfigAnswer m{TRY(get_number(object, "number")), {}, {}, {}};
  m.hex = TRY(get_string(object, "hex"));
  if (m.hex.size() > longest_config || !is_hex(m.hex))
    return fail(Errc::bad_request, "'hex' is not a configuration space");
  TRY(parse_error(object, m.code, m.message));
  return m;
}

Result<Message> parse_borrow(const Json& object) {
  BorrowRequest m{TRY(get_number(object, "number")), {}, false};
  m.device = TRY(get_device(object, "device"));
  m.shared = TRY(get_bool(object, "shared"));
  return m;
}

/// Number or reason, device and epoch: what return, taken_back and released share.
struct LoanName {
  DeviceId device;
  std::uint64_t epoch;
};
Result<LoanName> parse_loan(const Json& object) {
  const auto device = TRY(get_device(object, "device"));
  const auto epoch = TRY(get_number(object, "epoch"));
  return LoanName{device, epoch};
}

template <class M> std::string text_of(const M& message) {
  const Json object = body(message);
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// There may be thousands: written at once, which is what it would be as Json, too.
std::string text_of(const Devices& m) {
  std::string changed, removed;
  for (const auto& entry : m.changed) (changed.empty() ? changed : changed += ',') += text_of(entry);
  for (const auto id : m.removed) (removed.empty() ? removed : removed += ',') += json_text(to_string(id));
  return fmt::format(R"({{"changed":[{}],"removed":[{}],"type":"devices"}})", changed, removed);
}

} // namespace

std::string encode(const Message& message) {
  return std::visit([](const auto& m) { return text_of(m); }, message);
}

Result<Message> decode(std::string_view text) {
  static const auto heartbeat = encode(Heartbeat{}); // by far the most: known without being read
  if (text == heartbeat) return Heartbeat{};
  const auto object = TRY(parse_object(text));
  const auto type = TRY(get_string(object, "type"));
  if (type == "hello") return parse_hello(object);
  if (type == "refused") return Refused{TRY(get_text(object, "reason"))};
  if (type == "devices") return parse_devices(object);
  if (type == "borrow") return parse_borrow(object);
  if (type == "answer") return parse_answer(object);
  if (type == "heartbeat") return Heartbeat{object.contains("asks") && TRY(get_bool(object, "asks"))};
  if (type == "config") return parse_config_request(object);
  if (type == "config_answer") return parse_config_answer(object);
  if (type != "return" && type != "taken_back" && type != "released")
    return fail(Errc::bad_request, "a message of an unknown type was received");
  const auto loan = TRY(parse_loan(object));
  if (type == "released") return Released{loan.device, loan.epoch};
  if (type == "taken_back")
    return TakenBack{loan.device, loan.epoch, TRY(get_text(object, "reason")),
                     object.contains("lost") && TRY(get_bool(object, "lost"))};
  return ReturnRequest{TRY(get_number(object, "number")), loan.device, loan.epoch};
}

std::string_view name_of(ConfigForm form) { return name_in(form_names, form); }

std::optional<ConfigForm> parse_form(std::string_view text) { return value_in<ConfigForm>(form_names, text); }

std::string_view name_of(Errc code) { return errc_names[static_cast<std::size_t>(code) - 1]; }

std::optional<Errc> parse_errc(std::string_view name) {
  const auto found = std::ranges::find(errc_names, name);
  if (found == errc_names.end()) return std::nullopt;
  return static_cast<Errc>(found - errc_names.begin() + 1);
}

} // namespace smartio::core
