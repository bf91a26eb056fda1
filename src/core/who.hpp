// Who a device is, whatever its place: what is kept of it, so that no other is lent in its stead. Pure.
#pragma once

#include "result.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace smartio::core {

// Serial numbers: of the capability, in vital product data, and what an NVMe controller told the kernel's driver.
inline constexpr const char *device_serial = "device", *vpd_serial = "vpd", *nvme_serial = "nvme";

struct Who {
  std::string kind;                             ///< its ids and class; empty: not known
  std::map<std::string, std::string> serials{}; ///< what tells two of a kind apart, as far as it is known
  bool operator==(const Who&) const = default;
};

std::string kind_of(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code,
                    std::uint16_t subsystem_vendor, std::uint16_t subsystem_device);
std::string to_string(const Who& who);

/// Errc::wrong_state, and what is there, if that is certainly not what is remembered.
Result<void> check_same(const Who& remembered, const Who& there);

/// Errc::wrong_state if `there` may yet turn out to be another: an NVMe controller that the kernel's driver, which may
/// be about to be bound, has not asked for its number. It says when it has (DeviceIdentified).
Result<void> check_asked(const Who& remembered, const Who& there, std::string_view driver);

/// Whether they are certainly one, wherever they are: of a kind and with one NVMe serial number. The others do not
/// say that: functions of one device share them, and some vendors give all their devices the same.
bool is_surely(const Who& remembered, const Who& there);

/// `there` with what is remembered of it; just `there` where that is another one.
Who joined(Who there, const Who& remembered);

} // namespace smartio::core
