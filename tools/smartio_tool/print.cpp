// The short results; the long documents are in text.cpp.
#include "print.hpp"

#include <fmt/format.h>

namespace smartio::tool {

using nlohmann::json;

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    const bool c1 = byte == 0xc2 && next >= 0x80 && next < 0xa0; // U+0080 to U+009F in UTF-8
    if (c1)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += text[i];
  }
  return out;
}

std::string text_of(const json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

std::string field(const json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  if (found == object.end()) return {};
  if (found->is_null()) return "-";
  if (found->is_boolean()) return found->get<bool>() ? "yes" : "no";
  if (found->is_string()) return printable(found->get_ref<const std::string&>());
  return printable(found->dump());
}

std::string print_borrowed(const json& result) {
  return fmt::format("{}\n{}\n", field(result, "device"), field(result, "socket"));
}

std::string print_found(const json& result) {
  std::string out;
  if (const auto found = result.find("found"); found != result.end() && found->is_array())
    for (const json& id : *found)
      if (id.is_string()) out += printable(id.get_ref<const std::string&>()) + '\n';
  return out;
}

std::string print_options(const json& result) {
  std::string out;
  if (const auto options = result.find("options"); options != result.end() && options->is_object())
    for (const auto& option : options->items())
      out += fmt::format("{} {}\n", printable(option.key()), field(*options, option.key().c_str()));
  return out;
}

std::string print_event(const json& event) {
  std::string out = fmt::format("{} {}", field(event, "time"), field(event, "event"));
  for (const auto& detail : event.items())
    if (detail.key() != "time" && detail.key() != "event" && detail.key() != "seq" && detail.key() != "schema_version")
      out += fmt::format(" {}={}", printable(detail.key()), field(event, detail.key().c_str()));
  return out + '\n';
}

} // namespace smartio::tool
