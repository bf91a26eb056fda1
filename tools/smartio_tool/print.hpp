// What people read: the daemon's documents as text. Names and addresses come from peers and devices, so that every word
// of a document passes `printable`; a document without an expected member prints an empty field.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smartio::tool {

/// `text` with control characters as \xNN, so that it can neither end the line nor command the terminal.
std::string printable(std::string_view text);

/// A string member, or the empty string.
std::string text_of(const nlohmann::json& object, const char* key);

/// One member as printable text: strings as they are, null as "-", missing as the empty string.
std::string field(const nlohmann::json& object, const char* key);

std::string print_borrowed(const nlohmann::json& result);
std::string print_found(const nlohmann::json& result);
std::string print_options(const nlohmann::json& result);
std::string print_event(const nlohmann::json& event);

std::string print_list(const nlohmann::json& document);
std::string print_show(const nlohmann::json& document);
std::string print_filters(const nlohmann::json& document); ///< as the commands that make them; 'remove ADDRESS'
std::string print_status(const nlohmann::json& document);

} // namespace smartio::tool
