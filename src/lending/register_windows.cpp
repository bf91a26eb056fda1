#include "register_windows.hpp"

#include "descriptors.hpp"

#include <algorithm>
#include <cerrno>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace smartio {
namespace {

enum class Same { no, yes, unknown };

/// Whether both give the same memory. A file has an inode of its own, a dma-buf has (drivers/dma-buf/dma-buf.c,
/// dma_buf_getfile) and a VFIO character device has. Descriptors of devices that groups give out share one, so they are
/// told apart by kcmp(2) alone, which a kernel may be built without and a sandbox may forbid.
Same same_memory(int a, int b) {
  struct stat first = {}, second = {};
  if (::fstat(a, &first) != 0 || ::fstat(b, &second) != 0) return Same::unknown;
  if (first.st_dev != second.st_dev || first.st_ino != second.st_ino) return Same::no;
  const bool has_inode = S_ISREG(first.st_mode) || S_ISCHR(first.st_mode);
  if (has_inode || vfio::kind_of_descriptor(a) == vfio::DescriptorKind::dma_buf) return Same::yes;
  const auto order = ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, a, b);
  if (order < 0) return Same::unknown;
  return order == 0 ? Same::yes : Same::no;
}

} // namespace

void RegisterWindows::exported(const vfio::Device* target, std::uint32_t bar, const Fd& fd) {
  if (auto copy = fd.duplicate()) exports_[target][bar] = std::move(*copy);
}

std::expected<std::optional<RegisterWindows::Id>, int>
RegisterWindows::mapping(const std::shared_ptr<vfio::Device>& device, const vfio::DmaMap& map,
                         const std::shared_ptr<Windows>& record) {
  const auto target = map.fd ? target_of(map.fd) : nullptr;
  if (!target) return std::unexpected(target.error());
  if (*target == nullptr) return std::nullopt;
  auto fd = map.fd.duplicate();
  vfio::DmaMap copy{map.iova, map.size, map.access, fd ? std::move(*fd) : Fd(), map.offset};
  windows_.emplace(++next_, Window{device, *target, std::move(copy), record});
  return next_;
}

std::expected<const vfio::Device*, int> RegisterWindows::target_of(const Fd& fd) const {
  bool known = true;
  for (const auto& [target, bars] : exports_)
    for (const auto& [bar, exported] : bars) {
      const auto same = same_memory(exported.get(), fd.get());
      if (same == Same::yes) return target;
      known = known && same == Same::no;
    }
  if (!known) return std::unexpected(EOPNOTSUPP);
  return nullptr;
}

void RegisterWindows::unmapped(const vfio::Device* device, const vfio::DmaUnmap& range) {
  std::erase_if(windows_, [device, &range](const auto& entry) {
    const auto iova = std::to_underlying(entry.second.map.iova), first = std::to_underlying(range.iova);
    return entry.second.device.get() == device && (range.all || (iova >= first && iova - first < range.size));
  });
}

/// Runs something when the last of the completions that have it has gone.
class RegisterWindows::Finally {
public:
  explicit Finally(std::move_only_function<void()> last) : run_(std::move(last)) {}
  Finally(const Finally&) = delete;
  ~Finally() { run_(); }

private:
  std::move_only_function<void()> run_;
};

void RegisterWindows::remake(const vfio::Device* target, std::move_only_function<void()> done) {
  const auto finally = std::make_shared<Finally>(std::move(done));
  std::vector<Id> onto;
  for (const auto& [id, window] : windows_)
    if (window.target == target) onto.push_back(id);
  for (const Id id : onto) remake(id, finally);
}

void RegisterWindows::remake(Id id, const std::shared_ptr<Finally>& finally) {
  const auto& [device, target, map, record] = windows_.at(id);
  const vfio::DmaUnmap range{map.iova, map.size};
  auto fd = map.fd.duplicate();
  vfio::DmaMap again{map.iova, map.size, map.access, fd ? std::move(*fd) : Fd(), map.offset};
  const auto submitter = device;
  submitter->submit(range, [finally](const vfio::Reply&) {});
  submitter->submit(std::move(again), [self = shared_from_this(), id, submitter, range, finally](vfio::Reply reply) {
    self->remade(id, submitter, range, reply.has_value());
  });
}

void RegisterWindows::remade(Id id, const std::shared_ptr<vfio::Device>& device, vfio::DmaUnmap range, bool there) {
  const auto window = windows_.find(id);
  if (window == windows_.end()) { // its client unmapped it, before it was made again
    if (there) device->submit(range, [](const vfio::Reply&) {});
    return;
  }
  if (there) return;
  window->second.record->erase(std::to_underlying(range.iova));
  windows_.erase(window);
}

void RegisterWindows::withdraw(const vfio::Device* target, std::move_only_function<void()> done) {
  exports_.erase(target);
  const auto finally = std::make_shared<Finally>(std::move(done));
  std::vector<Window> onto;
  for (auto& [id, window] : windows_)
    if (window.target == target) onto.push_back(std::move(window));
  std::erase_if(windows_, [target](const auto& entry) { return entry.second.target == target; });
  for (const auto& [device, of, map, record] : onto)
    device->submit(vfio::DmaUnmap{map.iova, map.size}, [iova = map.iova, kept = record, finally](vfio::Reply reply) {
      if (reply) kept->erase(std::to_underlying(iova));
    });
}

void RegisterWindows::forget(const vfio::Device* device) {
  std::erase_if(windows_, [device](const auto& entry) { return entry.second.device.get() == device; });
}

} // namespace smartio
