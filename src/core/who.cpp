#include "who.hpp"

#include <algorithm>

namespace smartio::core {
namespace {

/// Of the serial numbers that both have.
template <class Compare> bool any_common(const Who& a, const Who& b, Compare compare) {
  return std::ranges::any_of(a.serials, [&b, compare](const auto& serial) {
    const auto other = b.serials.find(serial.first);
    return other != b.serials.end() && compare(serial.second, other->second);
  });
}

} // namespace

std::string kind_of(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code,
                    std::uint16_t subsystem_vendor, std::uint16_t subsystem_device) {
  return fmt::format("{:04x}:{:04x}, class {:06x}, subsystem {:04x}:{:04x}", vendor, device, class_code,
                     subsystem_vendor, subsystem_device);
}

std::string to_string(const Who& who) {
  auto text = who.kind;
  for (const auto& [name, serial] : who.serials) text += fmt::format(", {} serial {}", name, serial);
  return text;
}

Result<void> check_same(const Who& remembered, const Who& there) {
  const bool of_a_kind = remembered.kind.empty() || there.kind.empty() || remembered.kind == there.kind;
  if (of_a_kind && !any_common(remembered, there, std::not_equal_to<>())) return {};
  return fail(Errc::wrong_state, "another device is in its place ({}; it was {}): 'available' lends that one",
              to_string(there), to_string(remembered));
}

bool is_surely(const Who& remembered, const Who& there) {
  return remembered.kind == there.kind && any_common(remembered, there, std::equal_to<>()) &&
         check_same(remembered, there).has_value();
}

Who joined(Who there, const Who& remembered) {
  if (check_same(remembered, there)) there.serials.insert(remembered.serials.begin(), remembered.serials.end());
  if (there.kind.empty()) there.kind = remembered.kind;
  return there;
}

} // namespace smartio::core
