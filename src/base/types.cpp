// Ids and states, written and read.
#include <smartio/types.hpp>

#include "result.hpp"
#include "text.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <ostream>

namespace smartio {
inline namespace v0 {

namespace {
constexpr std::array<std::string_view, 4> state_names{"unavailable", "available", "borrowed", "quarantined"};
constexpr std::array<std::string_view, 5> end_names{"returned", "taken-back", "lender-lost", "device-lost",
                                                    "node-lost"};

template <class Enum, std::size_t n>
std::string_view name_of(Enum value, const std::array<std::string_view, n>& names) noexcept {
  const auto index = static_cast<std::size_t>(value);
  return index < n ? names[index] : "unknown";
}

template <class Enum, std::size_t n>
std::optional<Enum> named(std::string_view text, const std::array<std::string_view, n>& names) noexcept {
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}
} // namespace

Result<NodeId> parse_node_id(std::string_view text) {
  const auto value = parse_number(text, 10, 65535);
  if (!value || *value == 0)
    return fail(Errc::bad_request, "'{}' is not a node id: give a number from 1 to 65535", text);
  return static_cast<NodeId>(*value);
}

Result<DeviceId> parse_device_id(std::string_view text) {
  const std::string_view digits = text.starts_with("0x") ? text.substr(2) : text;
  const auto value = parse_number(digits, 16, UINT32_MAX);
  if (!value || (*value >> 16) == 0)
    return fail(Errc::bad_request, "'{}' is not a device: give an id as 'list' prints it, a BDF, or vfio-user:PATH",
                text);
  return static_cast<DeviceId>(*value);
}

std::string to_string(NodeId node) { return fmt::format("{}", number(node)); }
std::string to_string(DeviceId id) { return fmt::format("{:x}", static_cast<std::uint32_t>(id)); }

std::string_view to_string(DeviceState state) noexcept { return name_of(state, state_names); }
std::string_view to_string(LoanEnd end) noexcept { return name_of(end, end_names); }

std::optional<DeviceState> parse_device_state(std::string_view text) noexcept {
  return named<DeviceState>(text, state_names);
}

std::optional<LoanEnd> parse_loan_end(std::string_view text) noexcept { return named<LoanEnd>(text, end_names); }

std::ostream& operator<<(std::ostream& out, NodeId node) { return out << to_string(node); }
std::ostream& operator<<(std::ostream& out, DeviceId id) { return out << to_string(id); }
std::ostream& operator<<(std::ostream& out, DeviceState state) { return out << to_string(state); }
std::ostream& operator<<(std::ostream& out, LoanEnd end) { return out << to_string(end); }

} // namespace v0
} // namespace smartio
