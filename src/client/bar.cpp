#include "bar.hpp"
#include "page.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <sys/mman.h>
#include <sys/stat.h>

static_assert(std::endian::native == std::endian::little, "registers are little-endian, and used as the host's");

namespace smartio::detail {
namespace {

constexpr std::uint64_t all_ones(unsigned width) { return ~std::uint64_t{0} >> (64 - 8 * width); }

template <class T> std::uint64_t load_as(const volatile std::byte* at) {
  return *reinterpret_cast<const volatile T*>(at);
}
template <class T> void store_as(volatile std::byte* at, std::uint64_t value) {
  *reinterpret_cast<volatile T*>(at) = static_cast<T>(value);
}

std::uint64_t load(const volatile std::byte* at, unsigned width) {
  switch (width) {
  case 1: return load_as<std::uint8_t>(at);
  case 2: return load_as<std::uint16_t>(at);
  case 4: return load_as<std::uint32_t>(at);
  default: return load_as<std::uint64_t>(at);
  }
}

void store(volatile std::byte* at, unsigned width, std::uint64_t value) {
  switch (width) {
  case 1: return store_as<std::uint8_t>(at, value);
  case 2: return store_as<std::uint16_t>(at, value);
  case 4: return store_as<std::uint32_t>(at, value);
  default: return store_as<std::uint64_t>(at, value);
  }
}

// Whether an area can be mapped without surprises: whole pages of the region, within the file where that has a size
// (a load beyond its end would be a SIGBUS), after the area before it.
bool sound(const vfio::RegionInfo& region, const vfio::RegionArea& area, std::uint64_t file_size, std::uint64_t after) {
  const auto aligned = [](std::uint64_t value) { return value % page_size == 0; };
  return area.size > 0 && aligned(area.offset) && aligned(area.size) && aligned(region.fd_offset) &&
         area.offset >= after && in_range(area.offset, area.size, region.size) &&
         in_range(region.fd_offset, area.offset, file_size) &&
         in_range(region.fd_offset + area.offset, area.size, file_size);
}

} // namespace

Bar::Bar(std::shared_ptr<DeviceCore> device, unsigned bar)
    : core(std::move(device)), index(bar), size(core->description.bar_size[bar]) {}

Bar::~Bar() {
  core->await<bool>([this](auto done) {
    core->bars.erase(this);
    done(true);
  });
}

Result<void> Bar::map() {
  // Mapped on the device's thread, so that take-back comes either before or after.
  return core->await<Result<void>>([this](auto done) {
    core->submit(vfio::GetRegionInfo{index}, [this, done](vfio::Reply reply) {
      const auto region = DeviceCore::answer_of<vfio::RegionInfo>(std::move(reply), fmt::format("map BAR {}", index));
      if (!region) return done(std::unexpected(region.error()));
      done(map_areas(*region));
    });
  });
}

Result<void> check_areas(const vfio::RegionInfo& region, unsigned bar, std::size_t size) {
  if (region.size != size) return fail(Errc::bad_request, "BAR {} is not what it was when the device was opened", bar);
  if (!is_mappable(region)) return {};
  struct stat file = {};
  if (::fstat(region.fd.get(), &file) != 0) return fail_errno(errno, fmt::format("look at BAR {}", bar));
  const std::uint64_t file_size = S_ISREG(file.st_mode) ? static_cast<std::uint64_t>(file.st_size) : INT64_MAX;
  std::uint64_t after = 0;
  for (const vfio::RegionArea& area : region.areas) {
    if (!sound(region, area, file_size, after))
      return fail(Errc::bad_request,
                  "The device's server offers a piece of BAR {} that cannot be mapped: {} bytes at {}", bar, area.size,
                  area.offset);
    after = area.offset + area.size;
  }
  return {};
}

Result<void> Bar::map_areas(const vfio::RegionInfo& region) {
  if (core->revoked()) return std::unexpected(DeviceCore::error_of(ENODEV, {}));
  TRY(check_areas(region, index, size));
  if (!is_mappable(region)) return {};
  for (const vfio::RegionArea& area : region.areas) {
    Mapping mapping = TRY(Mapping::map(region.fd.get(), region.fd_offset + area.offset, area.size,
                                       (region.flags & vfio::region_flag_write) != 0));
    // VFIO waits for the last mapping of a device, so no forked child may hold one.
    ::madvise(mapping.bytes().data(), mapping.bytes().size(), MADV_DONTFORK);
    guards.push_back(TRY(GuardedArea::add(mapping.bytes())));
    areas.push_back({area.offset, {mapping.bytes().data(), mapping.bytes().size()}});
    mappings.push_back(std::move(mapping));
  }
  core->bars.insert(this);
  return {};
}

void Bar::become_ones() noexcept {
  // Without memory for the ones the old mapping stays; the lender waits for this process to let go, then ends it.
  for (Mapping& mapping : mappings) [[maybe_unused]] const auto replaced = mapping.replace_by_ones();
}

volatile std::byte* Bar::mapped(std::size_t offset, std::size_t bytes) const noexcept {
  for (const BarMapping::Area& area : areas)
    if (offset >= area.offset && in_range(offset - area.offset, bytes, area.bytes.size()))
      return area.bytes.data() + (offset - area.offset);
  return nullptr;
}

Result<void> Bar::check_access(std::size_t offset, unsigned width) const {
  const bool usual = width == 1 || width == 2 || width == 4 || width == 8;
  if (!usual || offset % width != 0 || !in_range(offset, width, size))
    return fail(Errc::bad_request, "BAR {} of {} bytes has no register of {} bytes at {:#x}", index, size, width,
                offset);
  return {};
}

Result<std::uint64_t> Bar::read(std::size_t offset, unsigned width) {
  if (auto allowed = check_access(offset, width); !allowed) return std::unexpected(allowed.error());
  if (const auto* at = mapped(offset, width)) {
    const std::uint64_t value = load(at, width);
    return core->revoked() ? all_ones(width) : value;
  }
  auto data = core->request<vfio::Data>(vfio::RegionRead{index, offset, width},
                                        fmt::format("read {} bytes at {:#x} of BAR {}", width, offset, index));
  if (!data && data.error().code == Errc::revoked) return all_ones(width);
  const auto bytes = TRY(std::move(data)).bytes;
  if (bytes.size() != width) return fail(Errc::bad_request, "A read of BAR {} gave {} bytes", index, bytes.size());
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), width);
  return value;
}

Result<std::optional<vfio::RegionWrite>> Bar::store_or_message(std::size_t offset, unsigned width,
                                                               std::uint64_t value) {
  if (auto allowed = check_access(offset, width); !allowed) return std::unexpected(allowed.error());
  if (core->revoked()) return std::unexpected(DeviceCore::error_of(ENODEV, {}));
  if (auto* at = mapped(offset, width)) {
    store(at, width, value);
    return std::nullopt;
  }
  vfio::RegionWrite message{index, offset, std::vector<std::byte>(width)};
  std::memcpy(message.data.data(), &value, width);
  return message;
}

Result<void> Bar::write(std::size_t offset, unsigned width, std::uint64_t value) {
  auto message = TRY(store_or_message(offset, width, value));
  if (!message) return {};
  TRY(core->request<vfio::Done>(std::move(*message),
                                fmt::format("write {} bytes at {:#x} of BAR {}", width, offset, index)));
  return {};
}

/// The core outlives what is posted to its thread, as its destructor waits for that.
Result<void> Bar::post(std::size_t offset, unsigned width, std::uint64_t value) {
  auto message = TRY(store_or_message(offset, width, value));
  if (!message) return {};
  boost::asio::post(core->io, [device = core.get(), message = std::move(*message)] {
    if (device->revoked() || device->client->post(message) != ENOBUFS) return;
    device->submit(message, [](vfio::Reply) {}); // a server that does not keep up answers, and so holds us back
  });
  return {};
}

} // namespace smartio::detail

namespace smartio {

std::span<const BarMapping::Area> BarMapping::areas() const noexcept { return impl_->areas; }
std::size_t BarMapping::size() const noexcept { return impl_->size; }
volatile std::byte* BarMapping::mapped(std::size_t offset, std::size_t bytes) const noexcept {
  return impl_->mapped(offset, bytes);
}
Result<std::uint64_t> BarMapping::read(std::size_t offset, unsigned width) const { return impl_->read(offset, width); }
Result<void> BarMapping::write(std::size_t offset, unsigned width, std::uint64_t value) const {
  return impl_->write(offset, width, value);
}
Result<void> BarMapping::post(std::size_t offset, unsigned width, std::uint64_t value) const {
  return impl_->post(offset, width, value);
}

} // namespace smartio
