#include "report.hpp"

#include "result.hpp"
#include "subject.hpp"

namespace exercise {
namespace {

using smartio::Errc;
using smartio::fail;

// Capabilities (PCI Express Base 5.0, 7.5.1.1.11) and MSI-X (7.7.2).
constexpr std::uint16_t first_capability = 0x34, msix_table = 4;
constexpr unsigned capability_msix = 0x11, entry_bytes = 16, entry_control = 12;

Result<std::uint16_t> find_msix(const smartio::Device& device) {
  auto at = static_cast<std::uint16_t>(TRY(device.read_config(first_capability, 1)) & 0xfc);
  for (int steps = 0; at != 0 && steps < 48; ++steps) {
    const auto header = TRY(device.read_config(at, 2));
    if ((header & 0xff) == capability_msix) return at;
    at = static_cast<std::uint16_t>(header >> 8 & 0xfc);
  }
  return std::uint16_t{0};
}

Result<void> check_table(const smartio::Device& device, Report& report) {
  const auto capability = TRY(find_msix(device));
  if (capability == 0) return {};
  const auto place = TRY(device.read_config(capability + msix_table, 4));
  const auto bar = TRY(device.map_bar(place & 7));
  const std::size_t table = place & ~std::uint32_t{7};
  for (unsigned vector = 0; vector < device.vectors(); ++vector)
    if (bar.mapped(table + vector * entry_bytes, entry_bytes) != nullptr)
      return fail(Errc::bad_request, "The MSI-X table entry of vector {} is mapped", vector);
  TRY(bar.read(table + entry_control, 4));
  report.table_is_trapped = true;
  return {};
}

} // namespace

Result<void> look_at_registers(const smartio::Device& device, Report& report) {
  report.vectors = device.vectors();
  const auto bar = TRY(device.map_bar(0));
  for (const auto& area : bar.areas()) report.mapped_bytes += area.bytes.size();
  const auto first = TRY(bar.read(0, 4));
  if (const auto* mapped = bar.mapped(0, 4); mapped != nullptr) {
    const std::uint32_t loaded = *reinterpret_cast<const volatile std::uint32_t*>(mapped);
    if (loaded != first)
      return fail(Errc::bad_request, "A register is {:#x} when loaded, {:#x} when read", loaded, first);
  }
  if (first == UINT32_MAX) return fail(Errc::bad_request, "The registers are all ones");
  return check_table(device, report);
}

std::string to_json(const Report& report, bool all_held) {
  return fmt::format(R"({{"device":"{}","kind":"{}","vectors":{},"mapped_bytes":{},"table_is_trapped":{},)"
                     R"("device_writes_memory":{},"device_reads_memory":{},"interrupts":{},"reset":{},"all_held":{}}})",
                     report.device, report.kind, report.vectors, report.mapped_bytes, report.table_is_trapped,
                     report.device_writes_memory, report.device_reads_memory, report.interrupts, report.reset,
                     all_held);
}

Result<std::unique_ptr<Subject>> make_subject(std::string_view kind, const smartio::Device& device) {
  auto bar = TRY(device.map_bar(0));
  if (kind == "nvme") return make_nvme(device, std::move(bar));
  if (kind == "edu") return make_edu(device, std::move(bar));
  if (kind == "e1000" || kind == "e1000e") return make_gigabit(device, std::move(bar), Gigabit::e1000e);
  if (kind == "igb") return make_gigabit(device, std::move(bar), Gigabit::igb);
  if (kind == "igbvf") return make_gigabit(device, std::move(bar), Gigabit::igbvf);
  return fail(Errc::bad_request, "There is no kind {}", kind);
}

} // namespace exercise
