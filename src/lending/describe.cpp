#include "describe.hpp"

#include "ask.hpp"
#include "capabilities.hpp"
#include "host/names.hpp"
#include "page.hpp"
#include "result.hpp"

#include <algorithm>
#include <optional>

namespace smartio {
namespace {

using Bytes = std::vector<std::byte>;

/// Little-endian; 0xff.. beyond the end, as configuration space reads where nothing is.
std::uint32_t number(const Bytes& config, std::size_t offset, unsigned width) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < width; ++i) {
    const auto byte = offset + i < config.size() ? std::to_integer<std::uint32_t>(config[offset + i]) : 0xffU;
    value |= byte << (8 * i);
  }
  return value;
}

/// The MSI-X table and pending bits (PCI Local Bus 3.0, 6.8.2), widened to whole pages.
void find_msix(const Bytes& config, Description& description) {
  const auto msix = vfio::find_capability(config, vfio::capability::msi_x);
  if (!msix) return;
  const std::size_t at = msix->offset;
  const auto vectors = (number(config, at + 2, 2) & 0x7ff) + 1;
  const auto protect = [&description](std::uint32_t where, std::uint64_t bytes) {
    const std::uint64_t begin = (where & ~7U) / page_size * page_size, end = whole_pages((where & ~7U) + bytes);
    description.protected_pages.push_back({where & 7U, begin, end - begin});
  };
  protect(number(config, at + 4, 4), std::uint64_t{vectors} * 16);
  protect(number(config, at + 8, 4), (vectors + 63) / 64 * 8);
}

template <class T> std::optional<T> as(vfio::Reply& reply) {
  if (!reply) return std::nullopt;
  auto* answer = std::get_if<T>(&*reply);
  return answer == nullptr ? std::nullopt : std::optional<T>(std::move(*answer));
}

} // namespace

std::vector<vfio::RegionArea> mappable(const std::vector<vfio::RegionArea>& areas,
                                       const std::vector<Description::Protected>& pages, unsigned bar) {
  std::vector<vfio::RegionArea> runs = areas;
  for (const auto& hole : pages) {
    if (hole.bar != bar) continue;
    std::vector<vfio::RegionArea> rest;
    for (const auto& run : runs) {
      const auto end = run.offset + run.size, hole_end = hole.offset + hole.size;
      if (hole_end <= run.offset || hole.offset >= end)
        rest.push_back(run);
      else {
        if (hole.offset > run.offset) rest.push_back({run.offset, hole.offset - run.offset});
        if (hole_end < end) rest.push_back({hole_end, end - hole_end});
      }
    }
    runs = std::move(rest);
  }
  const auto best = std::ranges::max_element(
      runs, [](const auto& a, const auto& b) { return std::pair(a.size, ~a.offset) < std::pair(b.size, ~b.offset); });
  if (best == runs.end()) return {};
  return {*best};
}

boost::asio::awaitable<Result<Description>> describe(std::shared_ptr<vfio::Device> device) {
  Description description;
  vfio::Request question = vfio::GetInfo{};
  auto reply = co_await ask(*device, std::move(question));
  const auto info = as<vfio::Info>(reply);
  if (!info) co_return fail_errno(reply ? EPROTO : reply.error(), "ask the device what it is");
  description.can_reset = (info->flags & vfio::device_flag_reset) != 0;

  question = vfio::GetRegionInfo{vfio::config_region};
  reply = co_await ask(*device, std::move(question));
  const auto config_info = as<vfio::RegionInfo>(reply);
  if (!config_info || config_info->size < 64) co_return fail(Errc::bad_request, "it has no PCI configuration space");
  const auto size = static_cast<std::uint32_t>(std::min<std::uint64_t>(config_info->size, 4096));
  question = vfio::RegionRead{vfio::config_region, 0, size};
  reply = co_await ask(*device, std::move(question));
  const auto config = as<vfio::Data>(reply);
  if (!config || config->bytes.size() < 64)
    co_return fail(Errc::bad_request, "its PCI configuration space cannot be read");
  auto& identity = description.identity;
  identity.vendor = static_cast<std::uint16_t>(number(config->bytes, 0, 2));
  identity.device = static_cast<std::uint16_t>(number(config->bytes, 2, 2));
  identity.class_code = number(config->bytes, 8, 4) >> 8;
  identity.who.kind = core::kind_of(identity.vendor, identity.device, identity.class_code,
                                    static_cast<std::uint16_t>(number(config->bytes, 0x2c, 2)),
                                    static_cast<std::uint16_t>(number(config->bytes, 0x2e, 2)));
  if (const auto serial = vfio::device_serial_number(config->bytes)) identity.who.serials["device"] = *serial;
  if (identity.vendor == 0xffff)
    co_return fail(Errc::bad_request, "its PCI configuration space reads all ones: it is gone");
  identity.name = vfio::pci_name(identity.vendor, identity.device, identity.class_code);
  find_msix(config->bytes, description);

  description.config = config->bytes;

  for (std::uint32_t bar = 0; bar < 6 && bar < info->regions; ++bar) {
    question = vfio::GetRegionInfo{bar};
    reply = co_await ask(*device, std::move(question));
    const auto region = as<vfio::RegionInfo>(reply);
    if (!region) continue;
    identity.bar_size[bar] = region->size;
    for (const auto& area : mappable(region->areas, description.protected_pages, bar))
      identity.bar_mapped[bar] += area.size;
  }
  question = vfio::GetIrqInfo{vfio::msix};
  reply = co_await ask(*device, std::move(question));
  if (const auto irqs = as<vfio::IrqInfo>(reply)) identity.vectors = irqs->count;
  co_return description;
}

} // namespace smartio
