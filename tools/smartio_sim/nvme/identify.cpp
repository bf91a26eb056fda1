#include "identify.hpp"

#include "bytes.hpp"
#include "pci_config.hpp"

#include <bit>
#include <fmt/format.h>

namespace smartio::sim::nvme {

namespace {

/// FNV-1a, 64 bits: spreads a name over the digits of a serial number; nobody's secret.
std::uint64_t hash(std::string_view text, std::uint64_t seed) {
  std::uint64_t value = 0xcbf29ce484222325ULL ^ seed;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return value;
}

std::string uuid_text(const std::array<std::byte, 16>& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned>(uuid[i]));
  }
  return text;
}

} // namespace

Identity make_identity(const std::string& name, std::uint64_t blocks, std::uint32_t block_size,
                       std::uint32_t namespaces) {
  Identity identity{fmt::format("SIM{:016X}", hash(name, 0)), {}, blocks / namespaces, block_size, namespaces};
  const std::uint64_t halves[2] = {hash(name, 1), hash(name, 2)};
  std::memcpy(identity.uuid.data(), halves, sizeof halves);
  identity.uuid[6] = (identity.uuid[6] & std::byte{0x0f}) | std::byte{0x80}; // RFC 9562: version 8, our own making
  identity.uuid[8] = (identity.uuid[8] & std::byte{0x3f}) | std::byte{0x80};
  return identity;
}

IdentifyPage identify_controller(const Identity& identity) {
  IdentifyPage page{};
  put(page, 0, PciConfig::vendor);
  put(page, 2, PciConfig::vendor);
  put_text(page, 4, 20, identity.serial);
  put_text(page, 24, 40, "smartio simulated NVMe controller");
  put_text(page, 64, 8, firmware_revision);
  put(page, 77, std::uint8_t{mdts});
  put(page, 78, std::uint16_t{1});       // controller id
  put(page, 80, std::uint32_t{0x10400}); // version
  // A shutdown may take as long as writing back whatever the host's cache holds: hosts wait no longer than is said
  // here.
  constexpr std::uint32_t minute = 60'000'000; // microseconds
  put(page, 84, minute);                       // RTD3 resume latency
  put(page, 88, minute);                       // RTD3 entry latency
  put(page, 111, std::uint8_t{1});             // an I/O controller
  put(page, 258, std::uint8_t{abort_limit});
  put(page, 259, std::uint8_t{event_limit});
  put(page, 260, std::uint8_t{0x03}); // one firmware slot, read-only
  put(page, 261, std::uint8_t{0x06}); // effects log page; log page offset and long counts
  put(page, 262, std::uint8_t{error_log_entries - 1});
  put(page, 266, warning_temperature);
  put(page, 268, critical_temperature);
  put(page, 512, std::uint8_t{0x66});  // submission queue entries of 64 bytes
  put(page, 513, std::uint8_t{0x44});  // completion queue entries of 16 bytes
  put(page, 516, identity.namespaces); // number of namespaces
  put(page, 520, std::uint16_t{0x1d}); // compare, dataset management, write zeroes, select field of features
  put(page, 525, std::uint8_t{0x07});  // a volatile write cache; flush takes the broadcast namespace
  put_text(page, 768, 256, "nqn.2014-08.org.nvmexpress:uuid:" + uuid_text(identity.uuid), '\0');
  put(page, 2048, std::uint16_t{2500}); // power state 0: 25 W
  return page;
}

IdentifyPage identify_namespace(const Identity& identity) {
  IdentifyPage page{};
  for (const std::size_t field : {0U, 8U, 16U}) put(page, field, identity.blocks); // size, capacity, utilization
  put(page, 33, std::uint8_t{0x09}); // deallocated blocks read as zeros; write zeroes may deallocate
  put(page, 130, static_cast<std::uint8_t>(std::countr_zero(identity.block_size))); // format 0: LBADS
  return page;
}

IdentifyPage namespace_list(const Identity& identity, std::uint32_t after) {
  IdentifyPage page{};
  for (std::uint32_t id = after + 1, at = 0; id <= identity.namespaces; ++id, at += 4) put(page, at, id);
  return page;
}

IdentifyPage namespace_descriptors(const Identity& identity, std::uint32_t nsid) {
  IdentifyPage page{};
  auto uuid = identity.uuid;
  const std::uint32_t offset = nsid - namespace_id; // the first one has the controller's
  for (std::size_t i = 0; i < sizeof offset; ++i) uuid[12 + i] ^= static_cast<std::byte>(offset >> (8 * i));
  put(page, 0, std::uint8_t{3}); // a UUID
  put(page, 1, static_cast<std::uint8_t>(identity.uuid.size()));
  std::memcpy(page.data() + 4, uuid.data(), uuid.size());
  return page;
}

} // namespace smartio::sim::nvme
