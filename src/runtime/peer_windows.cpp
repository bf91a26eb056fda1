#include "peer_windows.hpp"

#include <algorithm>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace smartio {
namespace {

/// Whether both give the same memory: one open file, or one file where that can be told. VFIO's devices can not: some
/// kernels have one inode for all of them.
bool same_file(int a, int b) {
  if (::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, a, b) == 0) return true;
  struct stat first = {}, second = {};
  return ::fstat(a, &first) == 0 && ::fstat(b, &second) == 0 && S_ISREG(first.st_mode) &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

} // namespace

void PeerWindows::exported(const vfio::Device* target, std::uint32_t bar, const Fd& fd) {
  if (auto copy = fd.duplicate()) exports_[target][bar] = std::move(*copy);
}

std::optional<PeerWindows::Id> PeerWindows::mapping(const std::shared_ptr<vfio::Device>& device,
                                                    const vfio::DmaMap& map, const std::shared_ptr<Windows>& record) {
  if (!map.fd) return std::nullopt;
  const auto has_it = [&map](const auto& exports) {
    return std::ranges::any_of(exports.second,
                               [&map](const auto& bar) { return same_file(bar.second.get(), map.fd.get()); });
  };
  const auto target = std::ranges::find_if(exports_, has_it);
  if (target == exports_.end()) return std::nullopt;
  windows_.emplace(++next_, Window{device, target->first, map.iova, map.size, record});
  return next_;
}

void PeerWindows::unmapped(const vfio::Device* device, const vfio::DmaUnmap& range) {
  std::erase_if(windows_, [device, &range](const auto& entry) {
    const auto iova = std::to_underlying(entry.second.iova), first = std::to_underlying(range.iova);
    return entry.second.device.get() == device && (range.all || (iova >= first && iova - first < range.size));
  });
}

void PeerWindows::withdraw(const vfio::Device* target, std::move_only_function<void()> done) {
  exports_.erase(target);
  // Runs `done` when the last of the completions has gone.
  struct Finally {
    explicit Finally(std::move_only_function<void()> last) : run(std::move(last)) {}
    Finally(const Finally&) = delete;
    ~Finally() { run(); }
    std::move_only_function<void()> run;
  };
  const auto finally = std::make_shared<Finally>(std::move(done));
  std::vector<Window> onto;
  for (const auto& [id, window] : windows_)
    if (window.target == target) onto.push_back(window);
  std::erase_if(windows_, [target](const auto& entry) { return entry.second.target == target; });
  for (const Window& window : onto)
    window.device->submit(vfio::DmaUnmap{window.iova, window.size}, [window, finally](vfio::Reply reply) {
      if (reply) window.record->erase(std::to_underlying(window.iova));
    });
}

void PeerWindows::forget(const vfio::Device* device) {
  std::erase_if(windows_, [device](const auto& entry) { return entry.second.device.get() == device; });
}

} // namespace smartio
