// Reading JSON from outside without exceptions: every accessor says what was wrong.
#pragma once

#include "result.hpp"
#include "text.hpp"

#include <nlohmann/json.hpp>

namespace smartio::core {

using Json = nlohmann::json;

/// An object, or Errc::bad_request with where it is wrong, in a text that begins with that line. Nesting deeper than 16
/// is refused before it is parsed.
Result<Json> parse_object(std::string_view text, unsigned first_line = 1);

/// As a JSON string, with what is no UTF-8 replaced. For documents of very many parts: trees take ten times as long.
std::string json_text(std::string_view text);

Result<std::string> get_string(const Json& object, const char* key);
Result<std::uint64_t> get_number(const Json& object, const char* key, std::uint64_t limit = UINT64_MAX);
Result<bool> get_bool(const Json& object, const char* key);
Result<NodeId> get_node(const Json& object, const char* key);     ///< 1 to 65535
Result<DeviceId> get_device(const Json& object, const char* key); ///< the hex form

} // namespace smartio::core
