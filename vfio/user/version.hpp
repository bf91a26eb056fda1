// The VERSION payload: version number and a JSON object of capabilities. Pure; parsed strictly.
#pragma once

#include "wire.hpp"

#include <cstdint>
#include <expected>
#include <span>
#include <vector>

namespace smartio::vfio::user {

/// What one side said. The defaults are those of the specification for what it left out.
struct Version {
  std::uint16_t major = 0;
  std::uint16_t minor = 1;
  std::uint32_t max_msg_fds = 1;              ///< descriptors it takes with one message
  std::uint32_t max_data_xfer_size = 1 << 20; ///< bytes of data it takes in one message, at least 1
  bool operator==(const Version&) const = default;
};

/// What this implementation says of itself.
inline constexpr Version own_version{0, 1, max_fds, max_transfer};

/// The payload of a VERSION command or reply. At most 194 bytes after the number, so that the reply is never longer
/// than QEMU's request, which QEMU would take for a broken stream.
std::vector<std::byte> encode_version(const Version& version);

/// EINVAL: no NUL at the end, no JSON object, or a known key of the wrong type or range. Unknown keys are passed over.
std::expected<Version, int> decode_version(std::span<const std::byte> payload);

} // namespace smartio::vfio::user
