#include "group.hpp"

#include "result.hpp"
#include "turns.hpp"

#include <algorithm>

namespace smartio::vfio::kernel {

class Group {
public:
  Group(std::shared_ptr<System> system, unsigned number) : system_(std::move(system)), number_(number) {}

  Result<Fd> join(const Place& place, Interface wanted, const std::optional<VfToken>& token);
  void leave(unsigned id, const Progress& progress);
  Result<void> map(unsigned id, const DmaMap& window, const Progress& progress);
  Result<std::vector<std::uint64_t>> find(unsigned id, const DmaUnmap& range) const; ///< where windows begin
  Result<std::uint64_t> unmap(unsigned id, std::uint64_t iova, const Progress& progress);

  Interface interface() const { return iommu_->interface(); }
  const Limits& limits() const { return limits_; }
  unsigned next_id() { return ++ids_; }

  Turns turns; ///< whose turn it is calls

private:
  Result<Fd> open_first(const Place& place, Interface wanted, const std::optional<VfToken>& token);
  Result<void> refresh_limits();
  Result<void> check(const DmaMap& window) const;
  Result<Window> describe(unsigned id, const DmaMap& map, Source& source) const;
  Result<void> make(unsigned id, const DmaMap& map, const Source& source, Window window, const Progress& progress);
  Outcome<void> map_pieces(const DmaMap& map, const Source& source, Window& window, const Progress& progress);
  Outcome<void> unmap_pieces(std::uint64_t iova, Window& window, const Progress& progress);
  std::unexpected<Error> map_failure(int number, const DmaMap& window) const;
  Result<void> remove(unsigned id, std::uint64_t iova, const Progress& progress);

  std::shared_ptr<System> system_;
  unsigned number_, members_ = 0, ids_ = 0;
  Limits limits_;
  Windows windows_; // the pages go after the domain that pins them
  std::unique_ptr<Iommu> iommu_;
};

namespace {

/// The pages of files are pinned one by one, at some GiB a second. What is longer is cut here, so that no call of the
/// kernel takes long; large pages fit in.
constexpr std::uint64_t most_piece = 1ULL << 30;

bool patient() { return true; } // Progress that nobody waits for

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
  const auto taken = windows_.pieces();
  limits_.windows = static_cast<std::uint32_t>(std::min<std::uint64_t>(limits_.windows + taken, UINT32_MAX));
  return {};
}

void Group::leave(unsigned id, const Progress& progress) {
  for (const auto iova : windows_.of(id))
    if (!remove(id, iova, progress)) continue; // what stays goes with the domain
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
  if (const auto reserved = reserved_range(limits_.ranges, iova, window.size))
    return fail_errno(EINVAL,
                      fmt::format("the IOMMU of group {} has {:#x} to {:#x} reserved, of the {} bytes at {:#x}: "
                                  "map them elsewhere",
                                  number_, reserved->first, reserved->last, window.size, iova));
  return {};
}

Result<Window> Group::describe(unsigned id, const DmaMap& map, Source& source) const {
  Window window{map.size, map.access, static_cast<bool>(map.fd), {}, map.size, {id}};
  if (!map.fd) return window;
  source = TRY(examine(*system_, map));
  if (source.kind != Source::Kind::file) return window;
  window.file = {source.status.device, source.status.inode, map.offset};
  window.piece = std::min(map.size, most_piece);
  return window;
}

Result<void> Group::map(unsigned id, const DmaMap& map, const Progress& progress) {
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
  if (windows_.pieces() + window.pieces() > limits_.windows) return map_failure(ENOSPC, map);
  return make(id, map, source, std::move(window), progress);
}

Result<void> Group::make(unsigned id, const DmaMap& map, const Source& source, Window window,
                         const Progress& progress) {
  const auto iova = std::to_underlying(map.iova);
  auto& made = windows_.add(iova, std::move(window));
  if (!made.reachable) return {};
  const auto mapped = map_pieces(map, source, made, progress);
  if (mapped) return {};
  if (auto removed = remove(id, iova, progress); !removed) return fail_errno(ENOTRECOVERABLE, removed.error().context);
  return map_failure(mapped.error(), map);
}

Outcome<void> Group::map_pieces(const DmaMap& map, const Source& source, Window& window, const Progress& progress) {
  auto fd = map.fd.duplicate();
  if (!fd) return std::unexpected(fd.error().code.value());
  DmaMap part{map.iova, window.piece, map.access, std::move(*fd), map.offset};
  for (std::uint64_t at = 0; at < map.size; at += window.piece) {
    if (at != 0 && !progress()) return std::unexpected(ECANCELED);
    part.iova = Iova{std::to_underlying(map.iova) + at};
    part.size = std::min(window.piece, map.size - at);
    part.offset = map.offset + at;
    auto pages = iommu_->map(part, source);
    if (!pages) return std::unexpected(pages.error());
    window.mapped.push_back(std::move(*pages));
  }
  return {};
}

/// Each as it was mapped, the last one first. Where the kernel says that it took less, the rest may be reached.
Outcome<void> Group::unmap_pieces(std::uint64_t iova, Window& window, const Progress& progress) {
  while (!window.mapped.empty()) {
    const auto at = (window.mapped.size() - 1) * window.piece;
    const auto bytes = std::min(window.piece, window.size - at);
    const auto unmapped = iommu_->unmap(Iova{iova + at}, bytes);
    if (!unmapped) return std::unexpected(unmapped.error());
    if (*unmapped != bytes) return std::unexpected(EIO);
    window.mapped.pop_back();
    progress();
  }
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

Result<std::vector<std::uint64_t>> Group::find(unsigned id, const DmaUnmap& range) const {
  const auto iova = std::to_underlying(range.iova);
  if (range.all) return windows_.of(id);
  if (!is_range(iova, range.size))
    return fail_errno(EINVAL, fmt::format("{} bytes at {:#x} are no range of addresses", range.size, iova));
  const auto found = windows_.within(id, iova, range.size);
  if (!found)
    return fail_errno(found.error(), fmt::format("unmapping {} bytes at {:#x} would cut a window", range.size, iova));
  return *found;
}

Result<std::uint64_t> Group::unmap(unsigned id, std::uint64_t iova, const Progress& progress) {
  const auto size = windows_.at(iova).size;
  TRY(remove(id, iova, progress));
  return size;
}

/// Ends one function's interest in a window; when nobody else has any, unmaps it.
Result<void> Group::remove(unsigned id, std::uint64_t iova, const Progress& progress) {
  auto& window = windows_.at(iova);
  if (window.members.size() > 1) {
    std::erase(window.members, id);
    return {};
  }
  if (const auto unmapped = unmap_pieces(iova, window, progress); !unmapped)
    return fail_errno(unmapped.error(), fmt::format("unmap {} bytes at {:#x} in IOMMU group {}, which the device may "
                                                    "still reach",
                                                    window.size, iova, number_));
  windows_.remove(iova);
  return {};
}

Result<Member::Joined> Member::join(std::shared_ptr<System> system, const Place& place, Interface wanted,
                                    const std::optional<VfToken>& token, const Progress& progress) {
  auto group = find_group(system, place.group);
  const Turns::Turn turn(group->turns, progress);
  auto device = TRY(group->join(place, wanted, token));
  return Joined{Member(group), std::move(device)};
}

Member::Member(std::shared_ptr<Group> group)
    : group_(std::move(group)), id_(group_->next_id()), interface_(group_->interface()),
      ranges_(group_->limits().ranges) {}

Member::~Member() {
  if (!group_) return;
  const Turns::Turn turn(group_->turns, patient);
  group_->leave(id_, turn.progress());
}

Result<void> Member::map(const DmaMap& window, const Progress& progress) {
  const Turns::Turn turn(group_->turns, progress);
  return group_->map(id_, window, turn.progress());
}

/// A turn for each window: whoever waits comes between two. Nobody else takes windows of this function away.
Result<std::uint64_t> Member::unmap(const DmaUnmap& range, const Progress& progress) {
  std::vector<std::uint64_t> found;
  {
    const Turns::Turn turn(group_->turns, progress);
    found = TRY(group_->find(id_, range));
  }
  std::uint64_t bytes = 0;
  for (const auto iova : found) {
    const Turns::Turn turn(group_->turns, progress);
    bytes += TRY(group_->unmap(id_, iova, turn.progress()));
  }
  return bytes;
}

} // namespace smartio::vfio::kernel
