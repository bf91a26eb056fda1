#include "json.hpp"

#include <algorithm>

namespace smartio::core {
namespace {

std::unexpected<Error> missing(const char* key, const char* kind) {
  return fail(Errc::bad_request, "'{}' is missing or not a {}", key, kind);
}

const Json* find(const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? nullptr : &*found;
}

bool too_deep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\')
      ++i;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '{' || c == '[') && ++depth > 16)
      return true;
    else if (!quoted && (c == '}' || c == ']'))
      --depth;
  }
  return false;
}

/// "line 3, column 5: invalid literal". What was read there, which may be anything and long, is left out.
std::string place(std::string_view text, unsigned first_line, const Json::parse_error& error) {
  const auto before = text.substr(0, error.byte == 0 ? 0 : error.byte - 1);
  const auto line = first_line + std::ranges::count(before, '\n');
  const auto column = before.size() - (before.rfind('\n') + 1) + 1;
  std::string_view why = error.what();
  why = why.substr(0, why.find("; last read"));
  if (const auto at = why.rfind(": "); at != std::string_view::npos) why.remove_prefix(at + 2);
  return fmt::format("line {}, column {}: {}", line, column, why);
}

std::string mistake(std::string_view text, unsigned first_line) {
  try {
    [[maybe_unused]] const Json again = Json::parse(text);
  } catch (const Json::parse_error& error) {
    return place(text, first_line, error);
  } catch (const Json::exception&) {} // has no place: a number that is too large
  return fmt::format("from line {} on it has something that no JSON value can hold", first_line);
}

} // namespace

Result<Json> parse_object(std::string_view text, unsigned first_line) {
  if (too_deep(text)) return fail(Errc::bad_request, "JSON nested deeper than 16 levels is not allowed");
  Json value = Json::parse(text, nullptr, false);
  if (value.is_discarded()) return fail(Errc::bad_request, "a JSON object was expected; {}", mistake(text, first_line));
  if (!value.is_object())
    return fail(Errc::bad_request, "a JSON object was expected; line {} begins something else", first_line);
  return value;
}

std::string json_text(std::string_view text) {
  const auto is_plain = [](char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; };
  if (!std::ranges::all_of(text, is_plain)) return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size() + 2);
  return out.append(1, '"').append(text).append(1, '"');
}

Result<std::string> get_string(const Json& object, const char* key) {
  const Json* value = find(object, key);
  if (value == nullptr || !value->is_string()) return missing(key, "string");
  return *value->get_ptr<const std::string*>();
}

Result<std::uint64_t> get_number(const Json& object, const char* key, std::uint64_t limit) {
  const Json* value = find(object, key);
  // A program's own literals are signed; what was parsed is not, unless it is negative.
  const auto* from_program = value == nullptr ? nullptr : value->get_ptr<const std::int64_t*>();
  if (from_program == nullptr || *from_program < 0)
    if (value == nullptr || !value->is_number_unsigned()) return missing(key, "number");
  const auto number = value->get<std::uint64_t>();
  if (number > limit) return fail(Errc::bad_request, "'{}' is above {}", key, limit);
  return number;
}

Result<bool> get_bool(const Json& object, const char* key) {
  const Json* value = find(object, key);
  if (value == nullptr || !value->is_boolean()) return missing(key, "truth value");
  return *value->get_ptr<const bool*>();
}

Result<NodeId> get_node(const Json& object, const char* key) {
  const auto number = TRY(get_number(object, key, 65535));
  if (number == 0) return fail(Errc::bad_request, "'{}' is not a node id: give a number from 1 to 65535", key);
  return static_cast<NodeId>(number);
}

Result<DeviceId> get_device(const Json& object, const char* key) {
  const auto text = TRY(get_string(object, key));
  return parse_device_id(text);
}

} // namespace smartio::core
