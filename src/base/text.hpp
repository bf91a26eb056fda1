// Text to numbers and back.
#pragma once

#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace smartio {

/// The whole of `text` as an unsigned number in `base`, at most `limit`; nullopt otherwise. No sign, blank or prefix.
std::optional<std::uint64_t> parse_number(std::string_view text, int base = 10, std::uint64_t limit = UINT64_MAX);

/// "4096", "64K", "2M", "1G": bytes. Errc::bad_request otherwise.
Result<std::uint64_t> parse_size(std::string_view text);

constexpr unsigned number(NodeId node) { return static_cast<unsigned>(node); } ///< as people and JSON write it
constexpr NodeId lender_of(DeviceId id) { return static_cast<NodeId>(static_cast<std::uint32_t>(id) >> 16); }
constexpr DeviceId make_device_id(NodeId node, std::uint16_t index) {
  return static_cast<DeviceId>((static_cast<std::uint32_t>(node) << 16) | index);
}
constexpr std::uint16_t index_of(DeviceId id) {
  return static_cast<std::uint16_t>(static_cast<std::uint32_t>(id) & 0xffff);
}

std::string hyphenated(std::string name); ///< of an option: '_' and '-' are the same there

/// For Program_options, which asks for each word: an option with its value, or nothing. "--run_dir=x" is run-dir, x.
std::pair<std::string, std::string> hyphenated_option(const std::string& word);

/// With '?' in place of control characters (those of ASCII): one line, that changes nothing of a terminal.
std::string printable(std::string text);

} // namespace smartio
