// Block devices: mounted, swap, part of something, or taken by someone who cannot be named.
#include "in_use_parts.hpp"

#include "mounts.hpp"
#include "result.hpp"

#include <algorithm>
#include <cerrno>
#include <ranges>
#include <sys/sysmacros.h>
#include <system_error>

namespace smartio::vfio::host {
namespace {

using Uses = std::vector<std::string>;

void find_mounts(const std::vector<Mount>& mounts, const Child& child, Uses& uses) {
  for (const auto& mount : mounts)
    if (mount.device == child.number || mount.source == child.node || mount.source_device == child.number)
      uses.push_back(child.node + " is mounted on " + mount.point);
}

void find_swap(const std::vector<std::string>& swaps, const Child& child, Uses& uses) {
  if (std::ranges::count(swaps, child.node) != 0) uses.push_back(child.node + " is swap space");
}

/// What is built on the device: RAID, device mapper (LVM, dm-crypt), bcache. Each holder is itself a block device.
void find_builds(const Root& root, const Child& child, Uses& uses) {
  for (const auto& holder : list(child.folder + "/holders")) {
    const auto folder = root.sys + "/class/block/" + holder;
    if (const auto name = read_text(folder + "/dm/name"))
      uses.push_back(fmt::format("{} is part of the device mapper volume {}", child.node, *name));
    else if (exists(folder + "/md"))
      uses.push_back(fmt::format("{} is part of the RAID array /dev/{}", child.node, holder));
    else
      uses.push_back(fmt::format("{} is part of /dev/{}", child.node, holder));
  }
}

/// A file system over several devices names one of them in the table of mounts.
void find_btrfs(const Root& root, const Child& child, Uses& uses) {
  const auto folder = root.sys + "/fs/btrfs/";
  for (const auto& id : list(folder))
    if (exists(folder + id + "/devices/" + child.name))
      uses.push_back(fmt::format("{} is part of the mounted btrfs file system {}", child.node, id));
}

/// What udev found on the device, from its database.
std::string content_of(const Root& root, const Child& child) {
  const auto file = fmt::format("{}/udev/data/b{}:{}", root.run, major(*child.number), minor(*child.number));
  const auto text = read_table(file).value_or("");
  std::string type, label;
  for (const auto line : lines_of(text)) {
    if (line.starts_with("E:ID_FS_TYPE=")) type = line.substr(13);
    if (line.starts_with("E:ID_FS_LABEL=")) label = line.substr(14);
  }
  if (type == "zfs_member") return label.empty() ? "a ZFS pool" : "the ZFS pool " + label;
  return type.empty() ? "something" : "something, and holds " + type;
}

/// Not errors of the check: no medium, or a disk that is gone.
bool nothing_there(int error) { return error == 0 || error == ENXIO || error == ENOMEDIUM || error == ENODEV; }

void ask_kernel(const Root& root, const Child& child, const System& system, Uses& uses) {
  const int error = system.open_exclusively(root.dev + child.node.substr(4));
  if (error == EBUSY)
    uses.push_back(fmt::format("{} is in use by {}", child.node, content_of(root, child)));
  else if (!nothing_there(error))
    uses.push_back(fmt::format("{} cannot be checked: {}", child.node, std::system_category().message(error)));
}

} // namespace

void find_block_uses(const Root& root, const std::vector<Child>& children, const System& system, Uses& uses) {
  const auto mounts = read_mounts(root);
  const auto swaps = read_swaps(root);
  std::vector<std::string> used; // folders
  // Partitions come before their disk: a disk refuses to be opened when one of them is in use, and that one is named.
  for (const auto& child : std::views::reverse(children)) {
    if (child.subsystem != "block" || !child.number) continue;
    const auto known = uses.size();
    find_mounts(mounts, child, uses);
    find_swap(swaps, child, uses);
    find_builds(root, child, uses);
    find_btrfs(root, child, uses);
    const auto is_inside = [&child](const std::string& folder) { return folder.starts_with(child.folder + '/'); };
    if (uses.size() == known && std::ranges::none_of(used, is_inside)) ask_kernel(root, child, system, uses);
    if (uses.size() != known) used.push_back(child.folder);
  }
}

} // namespace smartio::vfio::host
