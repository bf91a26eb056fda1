// Ids and states, written and read.
#include <smartio/types.hpp>

#include "enum_names.hpp"
#include "result.hpp"
#include "text.hpp"

#include <fmt/format.h>
#include <ostream>

namespace smartio {
inline namespace v0 {

namespace {
constexpr std::array<std::string_view, 4> state_names{"unavailable", "available", "borrowed", "quarantined"};
constexpr std::array<std::string_view, 5> end_names{"returned", "taken-back", "lender-lost", "device-lost",
                                                    "node-lost"};
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

std::string_view to_string(DeviceState state) noexcept { return name_in(state_names, state); }
std::string_view to_string(LoanEnd end) noexcept { return name_in(end_names, end); }

std::optional<DeviceState> parse_device_state(std::string_view text) noexcept {
  return value_in<DeviceState>(state_names, text);
}

std::optional<LoanEnd> parse_loan_end(std::string_view text) noexcept { return value_in<LoanEnd>(end_names, text); }

std::ostream& operator<<(std::ostream& out, NodeId node) { return out << to_string(node); }
std::ostream& operator<<(std::ostream& out, DeviceId id) { return out << to_string(id); }
std::ostream& operator<<(std::ostream& out, DeviceState state) { return out << to_string(state); }
std::ostream& operator<<(std::ostream& out, LoanEnd end) { return out << to_string(end); }

} // namespace v0
} // namespace smartio
