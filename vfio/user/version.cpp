#include "version.hpp"
#include "page.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace smartio::vfio::user {
namespace {

using Json = nlohmann::json;
constexpr std::size_t longest_text = 194; // JSON and NUL in the request of QEMU 11.1

/// `object[key]` as a number from `lowest` to 2^32-1; `fallback` when absent; nullopt when it is anything else.
std::optional<std::uint32_t> number(const Json& object, const char* key, std::uint32_t lowest, std::uint32_t fallback) {
  const auto found = object.find(key);
  if (found == object.end()) return fallback;
  if (!found->is_number_unsigned()) return std::nullopt;
  const auto value = found->get<std::uint64_t>();
  if (value < lowest || value > std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

/// Page sizes are a mask of powers of two from 4 KiB up.
bool good_page_sizes(const Json& object) {
  const auto found = object.find("pgsizes");
  if (found == object.end()) return true;
  if (!found->is_number_unsigned()) return false;
  const auto mask = found->get<std::uint64_t>();
  return mask != 0 && mask % page_size == 0;
}

bool absent_or_boolean(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_boolean();
}

std::optional<Version> decode_capabilities(const Json& capabilities, Version version) {
  if (!capabilities.is_object()) return std::nullopt;
  const auto fds = number(capabilities, "max_msg_fds", 0, version.max_msg_fds);
  const auto transfer = number(capabilities, "max_data_xfer_size", 1, version.max_data_xfer_size);
  const auto maps = number(capabilities, "max_dma_maps", 0, 0);
  if (!fds || !transfer || !maps || !good_page_sizes(capabilities)) return std::nullopt;
  if (!absent_or_boolean(capabilities, "write_multiple")) return std::nullopt;
  version.max_msg_fds = *fds;
  version.max_data_xfer_size = *transfer;
  return version;
}

std::optional<Version> decode_json(std::string_view text, const Version& version) {
  const auto json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto capabilities = json.find("capabilities");
  return capabilities == json.end() ? version : decode_capabilities(*capabilities, version);
}

} // namespace

std::vector<std::byte> encode_version(const Version& version) {
  const Json json{{"capabilities",
                   {{"max_msg_fds", version.max_msg_fds},
                    {"max_data_xfer_size", version.max_data_xfer_size},
                    {"pgsizes", page_size}}}};
  const auto text = json.dump();
  assert(text.size() + 1 <= longest_text);
  const VersionNumber number{version.major, version.minor};
  std::vector<std::byte> payload(sizeof number + text.size() + 1); // ends with NUL
  std::memcpy(payload.data(), &number, sizeof number);
  std::memcpy(payload.data() + sizeof number, text.data(), text.size());
  return payload;
}

std::expected<Version, int> decode_version(std::span<const std::byte> payload) {
  const auto number = load<VersionNumber>(payload);
  if (!number) return std::unexpected(EINVAL);
  const Version version{.major = number->major, .minor = number->minor};
  const auto rest = payload.subspan(sizeof(VersionNumber));
  if (rest.empty()) return version; // SPDK sends none
  if (std::ranges::find(rest, std::byte{0}) != rest.end() - 1) return std::unexpected(EINVAL);
  const auto parsed = decode_json({reinterpret_cast<const char*>(rest.data()), rest.size() - 1}, version);
  if (!parsed) return std::unexpected(EINVAL);
  return *parsed;
}

} // namespace smartio::vfio::user
