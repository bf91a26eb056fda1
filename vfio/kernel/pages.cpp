#include "pages.hpp"

#include "mapping.hpp"
#include "result.hpp"

namespace smartio::vfio::kernel {
namespace {

constexpr std::uint32_t bar_count = 6;

/// The BAR that the window lies in, of the device whose descriptor it came with.
Result<Source> examine_device(System& system, const DmaMap& window) {
  for (std::uint32_t index = 0; index < bar_count; ++index) {
    const auto region = system.region(window.fd.get(), index);
    if (!region || region->size == 0 || window.offset < region->offset) continue;
    if (!in_range(window.offset - region->offset, window.size, region->size)) continue;
    return Source{Source::Kind::device, {}, index, window.offset - region->offset};
  }
  return fail_errno(EINVAL, "a window must lie within one BAR of the device it reaches");
}

} // namespace

Result<Source> examine(System& system, const DmaMap& window) {
  const auto status = system.status(window.fd.get());
  if (!status) return fail_errno(status.error(), "examine the descriptor of a window");
  if (status->regular) {
    if (!in_range(window.offset, window.size, status->size))
      return fail_errno(EINVAL, fmt::format("a window of {} bytes at {} exceeds its file, which has {}", window.size,
                                            window.offset, status->size));
    return Source{Source::Kind::file, *status};
  }
  // VFIO's request is unknown to every other kind of file, which answers ENOTTY.
  const auto info = system.device_info(window.fd.get());
  if (info && (info->flags & device_flag_pci) != 0) return examine_device(system, window);
  return Source{Source::Kind::other, *status};
}

Outcome<Pages> Pages::map(std::shared_ptr<System> system, const DmaMap& window, std::uint64_t page) {
  const auto lead = window.offset % page;
  const auto spare = (page - (lead + window.size) % page) % page;
  Pages pages;
  pages.size_ = lead + window.size + spare;
  pages.lead_ = lead;
  const auto base = system->map(window.fd.get(), window.offset - lead, pages.size_, window.access != Access::read);
  if (!base) return std::unexpected(base.error());
  pages.base_ = *base;
  pages.system_ = std::move(system);
  return pages;
}

} // namespace smartio::vfio::kernel
