#include "view.hpp"

#include "../descriptors.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <utility>

namespace smartio::vfio::user {
namespace {

/// The questions under way: the view is handed on when the last one is answered or dropped.
struct Loading {
  DeviceView view;
  DeviceView::Loaded loaded;
  bool known = false;
  int error = EIO; ///< when GetInfo is dropped without an answer

  ~Loading() {
    if (known)
      loaded(std::make_shared<const DeviceView>(std::move(view)));
    else
      loaded(std::unexpected(error));
  }
};

void keep_info(Loading& loading, Reply reply) {
  if (!reply) loading.error = reply.error();
  const auto* info = reply ? std::get_if<Info>(&*reply) : nullptr;
  loading.known = info != nullptr;
  if (info == nullptr) return;
  loading.view.info = {info->flags, std::min(info->regions, region_count), std::min(info->irqs, irq_count),
                       info->iovas};
}

void ask_regions(Device& device, const std::shared_ptr<Loading>& loading) {
  for (std::uint32_t index = 0; index < loading->view.info.regions; ++index)
    device.submit(GetRegionInfo{index}, [waiting = loading, index](Reply reply) mutable {
      const auto last = std::move(waiting);
      if (auto* info = reply ? std::get_if<RegionInfo>(&*reply) : nullptr) last->view.regions[index] = std::move(*info);
    });
}

void ask_irqs(Device& device, const std::shared_ptr<Loading>& loading) {
  for (std::uint32_t index = 0; index < loading->view.info.irqs; ++index)
    device.submit(GetIrqInfo{index}, [waiting = loading, index](Reply reply) mutable {
      const auto last = std::move(waiting);
      if (const auto* info = reply ? std::get_if<IrqInfo>(&*reply) : nullptr) last->view.irqs[index] = *info;
    });
}

struct Checker {
  const DeviceView& view;

  int operator()(const GetInfo&) const { return 0; }
  int operator()(const GetRegionInfo& get) const { return get.index < view.info.regions ? 0 : EINVAL; }
  int operator()(const GetIrqInfo& get) const { return get.index < view.info.irqs ? 0 : EINVAL; }
  int operator()(const SetIrqs& set) const {
    if (set.index >= view.info.irqs) return EINVAL;
    if (set.count == 0) return 0; // disables all there are, none included
    const bool errors = set.index == err || set.index == req;
    if (errors && (set.flags & irq_action_trigger) == 0) return EINVAL;
    return in_range(set.start, set.count, view.irqs[set.index].count) ? 0 : EINVAL;
  }
  int operator()(const RegionRead& read) const {
    return access(read.region, read.offset, read.count, region_flag_read);
  }
  int operator()(const RegionWrite& write) const {
    return access(write.region, write.offset, write.data.size(), region_flag_write);
  }
  int operator()(const DmaMap&) const { return 0; }
  int operator()(const DmaUnmap&) const { return 0; }
  int operator()(const Reset&) const { return 0; }

private:
  int access(std::uint32_t region, std::uint64_t offset, std::uint64_t count, std::uint32_t right) const {
    if (region >= view.info.regions || !in_range(offset, count, view.regions[region].size)) return EINVAL;
    return (view.regions[region].flags & right) != 0 ? 0 : EACCES;
  }
};

/// Eventfds and the like (timerfd, epoll: harmless, they refuse to be written) are files of no type. Their flags belong
/// to the client as well, and stay as they are.
int check_eventfd(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == 0 ? 0 : EINVAL;
}

bool allows(int open_flags, Access access) {
  const int mode = open_flags & O_ACCMODE;
  if ((open_flags & O_PATH) != 0) return false;
  // A shared writable mapping needs both rights.
  return mode == O_RDWR || (mode == O_RDONLY && access == Access::read);
}

bool is_registers(int fd) {
  const auto kind = kind_of_descriptor(fd);
  return kind == DescriptorKind::device || kind == DescriptorKind::dma_buf;
}

int check_window(const DmaMap& map) {
  struct stat status {};
  const int flags = ::fcntl(map.fd.get(), F_GETFL);
  if (flags < 0 || ::fstat(map.fd.get(), &status) != 0) return EINVAL;
  if (!S_ISREG(status.st_mode) && !is_registers(map.fd.get())) return EINVAL;
  if (!allows(flags, map.access)) return EACCES;
  if (!S_ISREG(status.st_mode)) return 0; // where registers end, only the kernel knows
  return in_range(map.offset, map.size, static_cast<std::uint64_t>(status.st_size)) ? 0 : EINVAL;
}

} // namespace

void DeviceView::load(const std::shared_ptr<Device>& device, Loaded loaded) {
  auto loading = std::make_shared<Loading>();
  loading->loaded = std::move(loaded);
  device->submit(GetInfo{}, [device, waiting = std::move(loading)](Reply reply) mutable {
    const auto last = std::move(waiting);
    keep_info(*last, std::move(reply));
    if (!last->known) return;
    ask_regions(*device, last);
    ask_irqs(*device, last);
  });
}

int DeviceView::check(const Request& request) const { return std::visit(Checker{*this}, request); }

std::shared_ptr<const DeviceView> without_registers(const DeviceView& view) {
  auto bare = std::make_shared<DeviceView>();
  bare->info = view.info;
  bare->irqs = view.irqs;
  for (std::size_t i = 0; i < view.regions.size(); ++i) {
    bare->regions[i].flags = view.regions[i].flags & ~region_flag_mmap;
    bare->regions[i].size = view.regions[i].size;
  }
  return bare;
}

int check_descriptors(const Request& request) {
  if (const auto* map = std::get_if<DmaMap>(&request)) return map->fd ? check_window(*map) : 0;
  const auto* set = std::get_if<SetIrqs>(&request);
  if (set == nullptr) return 0;
  for (const auto& fd : set->eventfds)
    if (const int error = check_eventfd(fd.get()); error != 0) return error;
  return 0;
}

} // namespace smartio::vfio::user
