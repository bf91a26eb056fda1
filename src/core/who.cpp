#include "who.hpp"

#include <algorithm>

namespace smartio::core {
namespace {

bool differs(const Who& a, const Who& b) {
  return std::ranges::any_of(a.serials, [&b](const auto& serial) {
    const auto other = b.serials.find(serial.first);
    return other != b.serials.end() && serial.second != other->second;
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
  if (of_a_kind && !differs(remembered, there)) return {};
  return fail(Errc::wrong_state, "another device is in its place ({}; it was {}): 'available' lends that one",
              to_string(there), to_string(remembered));
}

Result<void> check_asked(const Who& remembered, const Who& there, std::string_view driver) {
  const bool will_be = driver.empty() || driver == "nvme";
  if (!will_be || !remembered.serials.contains(nvme_serial) || there.serials.contains(nvme_serial)) return {};
  return fail(Errc::wrong_state, "its serial number is not known yet, so it may be another device");
}

bool is_surely(const Who& remembered, const Who& there) {
  return remembered.kind == there.kind && remembered.serials.contains(nvme_serial) &&
         there.serials.contains(nvme_serial) && !differs(remembered, there);
}

Who joined(Who there, const Who& remembered) {
  if (check_same(remembered, there)) there.serials.insert(remembered.serials.begin(), remembered.serials.end());
  if (there.kind.empty()) there.kind = remembered.kind;
  return there;
}

} // namespace smartio::core
