#include "group.hpp"

#include "result.hpp"

#include <algorithm>
#include <mutex>

namespace smartio::vfio::kernel {

class Group {
public:
  Group(std::shared_ptr<System> system, unsigned number) : system_(std::move(system)), number_(number) {}

  Result<Fd> join(const Place& place, Interface wanted, const std::optional<VfToken>& token);
  void leave(unsigned id);
  Result<void> map(unsigned id, const DmaMap& window);
  Result<std::uint64_t> unmap(unsigned id, const DmaUnmap& range);

  Interface interface() const { return iommu_->interface(); }
  const Limits& limits() const { return limits_; }
  unsigned next_id() { return ++ids_; }

  std::mutex mutex; ///< held by whoever calls

private:
  Result<Fd> open_first(const Place& place, Interface wanted, const std::optional<VfToken>& token);
  Result<void> refresh_limits();
  Result<void> check(const DmaMap& window) const;
  Result<Window> describe(unsigned id, const DmaMap& map, Source& source) const;
  std::unexpected<Error> map_failure(int number, const DmaMap& window) const;
  Result<void> remove(unsigned id, std::uint64_t iova);

  std::shared_ptr<System> system_;
  unsigned number_, members_ = 0, ids_ = 0;
  Limits limits_;
  Windows windows_; // the pages go after the domain that pins them
  std::unique_ptr<Iommu> iommu_;
};

namespace {

/// Every group that was ever open. Never destroyed: a worker that hangs in the kernel may outlive main.
std::shared_ptr<Group> find_group(const std::shared_ptr<System>& system, unsigned number) {
  static auto& mutex = *new std::mutex;
  static auto& groups = *new std::map<std::pair<System*, unsigned>, std::weak_ptr<Group>>;
  const std::scoped_lock lock(mutex);
  auto& known = groups[{system.get(), number}];
  auto group = known.lock();
  if (!group) known = group = std::make_shared<Group>(system, number);
  return group;
}

bool holds(const Limits& limits, std::uint64_t first, std::uint64_t last) {
  return limits.ranges.empty() || std::ranges::any_of(limits.ranges, [first, last](const IovaRange& range) {
           return range.first <= first && last <= range.last;
         });
}

} // namespace

Result<Fd> Group::join(const Place& place, Interface wanted, const std::optional<VfToken>& token) {
  if (iommu_ && wanted != Interface::automatic && wanted != iommu_->interface())
    return fail(Errc::wrong_state, "IOMMU group {} of {} is open by way of {}, not {}.", number_, to_string(place.bdf),
                kernel::to_string(iommu_->interface()), kernel::to_string(wanted));
  auto device = iommu_ ? iommu_->open_device(place, token) : open_first(place, wanted, token);
  if (!device) return device;
  if (const auto refreshed = refresh_limits(); !refreshed) {
    device->reset();
    if (members_ == 0) iommu_.reset();
    return std::unexpected(refreshed.error());
  }
  ++members_;
  return device;
}

Result<Fd> Group::open_first(const Place& place, Interface wanted, const std::optional<VfToken>& token) {
  auto first = wanted == Interface::type1 ? open_container(system_, place, token) : open_iommufd(system_, place, token);
  if (!first && wanted == Interface::automatic) first = open_container(system_, place, token);
  if (!first) return std::unexpected(first.error());
  iommu_ = std::move(first->iommu);
  return std::move(first->device);
}

/// Each device narrows what its domain can map.
Result<void> Group::refresh_limits() {
  auto limits = TRY(iommu_->limits());
  limits_ = std::move(limits);
  const auto taken = static_cast<std::uint32_t>(windows_.count());
  limits_.windows = limits_.windows > UINT32_MAX - taken ? UINT32_MAX : limits_.windows + taken;
  return {};
}

void Group::leave(unsigned id) {
  for (const auto iova : windows_.of(id))
    if (!remove(id, iova)) continue; // what stays goes with the domain
  if (--members_ > 0) return;
  iommu_.reset();
  windows_ = {};
}

Result<void> Group::check(const DmaMap& window) const {
  const auto iova = std::to_underlying(window.iova);
  if (!is_range(iova, window.size))
    return fail_errno(EINVAL, fmt::format("{} bytes at {:#x} are no range of addresses", window.size, iova));
  if ((iova | window.size | window.offset) % limits_.page != 0)
    return fail_errno(EINVAL, fmt::format("the window of {} bytes at {:#x} is not made of pages of {} bytes",
                                          window.size, iova, limits_.page));
  if (!holds(limits_, iova, iova + (window.size - 1)))
    return fail_errno(EINVAL, fmt::format("the IOMMU of group {} has reserved addresses among the {} bytes at {:#x}",
                                          number_, window.size, iova));
  return {};
}

Result<Window> Group::describe(unsigned id, const DmaMap& map, Source& source) const {
  Window window{map.size, map.access, static_cast<bool>(map.fd), {}, {}, {id}};
  if (!map.fd) return window;
  source = TRY(examine(*system_, map));
  if (source.kind == Source::Kind::file) window.file = {source.status.device, source.status.inode, map.offset};
  return window;
}

Result<void> Group::map(unsigned id, const DmaMap& map) {
  TRY(check(map));
  Source source{};
  auto window = TRY(describe(id, map, source));
  const auto iova = std::to_underlying(map.iova);
  const auto room = windows_.room(id, iova, window);
  if (room == Windows::Room::taken)
    return fail_errno(EEXIST, fmt::format("another window overlaps the {} bytes at {:#x}", map.size, iova));
  if (room == Windows::Room::same) {
    windows_.share(id, iova);
    return {};
  }
  if (windows_.count() >= limits_.windows) return map_failure(ENOSPC, map);
  if (window.reachable) {
    auto pages = iommu_->map(map, source);
    if (!pages) return map_failure(pages.error(), map);
    window.pages = std::move(*pages);
  }
  windows_.add(iova, std::move(window));
  return {};
}

std::unexpected<Error> Group::map_failure(int number, const DmaMap& window) const {
  const auto iova = std::to_underlying(window.iova);
  if (number == ENOMEM)
    return fail_errno(number, fmt::format("a window of {} bytes must be locked in memory, where windows hold {} bytes "
                                          "already and the limit is {} (RLIMIT_MEMLOCK): raise it",
                                          window.size, windows_.bytes(), system_->locked_memory_limit()));
  if (number == ENOSPC)
    return fail_errno(number, fmt::format("IOMMU group {} has all of its {} windows: use fewer, larger ones", number_,
                                          limits_.windows));
  return fail_errno(number, fmt::format("map {} bytes at {:#x} in IOMMU group {}", window.size, iova, number_));
}

Result<std::uint64_t> Group::unmap(unsigned id, const DmaUnmap& range) {
  const auto iova = std::to_underlying(range.iova);
  if (!range.all && !is_range(iova, range.size))
    return fail_errno(EINVAL, fmt::format("{} bytes at {:#x} are no range of addresses", range.size, iova));
  const auto found =
      range.all ? Outcome<std::vector<std::uint64_t>>(windows_.of(id)) : windows_.within(id, iova, range.size);
  if (!found)
    return fail_errno(found.error(), fmt::format("unmapping {} bytes at {:#x} would cut a window", range.size, iova));
  std::uint64_t bytes = 0;
  for (const auto start : *found) {
    const auto size = windows_.at(start).size;
    TRY(remove(id, start));
    bytes += size;
  }
  return bytes;
}

/// Ends one function's interest in a window; when nobody else has any, unmaps it.
Result<void> Group::remove(unsigned id, std::uint64_t iova) {
  auto& window = windows_.at(iova);
  if (window.members.size() > 1) {
    std::erase(window.members, id);
    return {};
  }
  if (window.reachable)
    if (const auto unmapped = iommu_->unmap(Iova{iova}, window.size); !unmapped)
      return fail_errno(unmapped.error(), fmt::format("unmap {} bytes at {:#x} in IOMMU group {}, which the device may "
                                                      "still reach",
                                                      window.size, iova, number_));
  windows_.remove(iova);
  return {};
}

Result<Member::Joined> Member::join(std::shared_ptr<System> system, const Place& place, Interface wanted,
                                    const std::optional<VfToken>& token) {
  auto group = find_group(system, place.group);
  const std::scoped_lock lock(group->mutex);
  auto device = TRY(group->join(place, wanted, token));
  const auto id = group->next_id();
  return Joined{Member(group, id), std::move(device)};
}

Member::~Member() {
  if (!group_) return;
  const std::scoped_lock lock(group_->mutex);
  group_->leave(id_);
}

Result<void> Member::map(const DmaMap& window) {
  const std::scoped_lock lock(group_->mutex);
  return group_->map(id_, window);
}

Result<std::uint64_t> Member::unmap(const DmaUnmap& range) {
  const std::scoped_lock lock(group_->mutex);
  return group_->unmap(id_, range);
}

Interface Member::interface() const {
  const std::scoped_lock lock(group_->mutex);
  return group_->interface();
}

std::vector<IovaRange> Member::ranges() const {
  const std::scoped_lock lock(group_->mutex);
  return group_->limits().ranges;
}

} // namespace smartio::vfio::kernel
