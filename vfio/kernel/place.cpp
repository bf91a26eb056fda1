// Where a function is, and what opening its nodes failed for.
#include "iommu.hpp"
#include "result.hpp"
#include "text.hpp"

#include <algorithm>

namespace smartio::vfio::kernel {

const char* to_string(Interface interface) {
  switch (interface) {
  case Interface::automatic: return "auto";
  case Interface::type1: return "type1";
  case Interface::iommufd: return "iommufd";
  }
  return "unknown";
}

namespace {

bool takes_token(System& system, const std::string& directory) {
  if (system.read_link(directory + "/physfn")) {
    const auto driver = system.read_link(directory + "/physfn/driver");
    return driver && driver->ends_with("/vfio-pci");
  }
  const auto attributes = system.list(directory);
  return attributes && std::ranges::find(*attributes, "sriov_totalvfs") != attributes->end();
}

} // namespace

Result<Place> locate(System& system, const Bdf& bdf) {
  const auto name = to_string(bdf);
  const auto directory = "/sys/bus/pci/devices/" + name;
  if (!system.read_link(directory)) return fail(Errc::no_such_device, "There is no PCI function {}.", name);
  const auto link = system.read_link(directory + "/iommu_group");
  const auto number = link ? parse_number(std::string_view(*link).substr(link->rfind('/') + 1), 10, UINT32_MAX)
                           : std::optional<std::uint64_t>();
  if (!number)
    return fail(Errc::wrong_state,
                "{} is in no IOMMU group: switch the IOMMU on (intel_iommu=on, or the firmware's setup).", name);
  Place place{bdf, static_cast<unsigned>(*number), std::nullopt, takes_token(system, directory)};
  const auto nodes = system.list(directory + "/vfio-dev");
  if (nodes && !nodes->empty()) place.cdev = "/dev/vfio/devices/" + nodes->front();
  return place;
}

Result<VfToken> parse_vf_token(const std::string& text) {
  const auto bad = [&text] { return fail(Errc::bad_request, "\"{}\" is no VF token, which is a UUID.", text); };
  VfToken token{text, {}};
  if (text.size() != 36) return bad();
  std::size_t byte = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (at == 8 || at == 13 || at == 18 || at == 23) {
      if (text[at++] != '-') return bad();
      continue;
    }
    const auto value = parse_number(std::string_view(text).substr(at, 2), 16);
    if (!value) return bad();
    token.bytes[byte++] = static_cast<std::byte>(*value);
    at += 2;
  }
  return token;
}

std::unexpected<Error> open_failure(int number, const std::string& path, const Bdf& bdf) {
  const auto name = to_string(bdf);
  if (number == ENOENT) return fail(Errc::wrong_state, "There is no {}: bind {} to vfio-pci first.", path, name);
  if (number == EACCES || number == EPERM)
    return fail(Errc::not_permitted, "Not permitted to open {} for {}: run as root, or make this user its owner.", path,
                name);
  if (number == EBUSY) return fail_errno(number, fmt::format("{}, the node of {}, is open elsewhere", path, name));
  return fail_errno(number, fmt::format("open {} for {}", path, name));
}

std::unexpected<Error> token_missing(const Bdf& bdf) {
  return fail(
      Errc::not_permitted,
      "{} shares a VF token with its physical or virtual functions, which another program has set: let the same "
      "node lend them, the physical function first.",
      to_string(bdf));
}

} // namespace smartio::vfio::kernel
