// The tree of devices below a function.
#include "in_use_parts.hpp"

#include "text.hpp"

#include <algorithm>
#include <filesystem>

namespace smartio::vfio::host {
namespace {

constexpr unsigned deepest = 24; ///< folders below a function; hubs behind hubs stay well below

std::string canonical(const std::string& path) {
  std::error_code error;
  auto result = std::filesystem::canonical(path, error);
  return error ? std::string() : result.string();
}

/// DEVNAME of the uevent file, which may hold folders ("snd/pcmC0D0p") but must stay below /dev.
std::string node_name(const Child& child) {
  const auto text = read_text(child.folder + "/uevent").value_or("");
  for (auto line : lines_of(text)) {
    if (!line.starts_with("DEVNAME=")) continue;
    line.remove_prefix(8);
    if (line.find("..") == line.npos && !line.empty()) return std::string(line);
  }
  return child.name;
}

void add_child(const std::string& folder, std::vector<Child>& children) {
  const auto subsystem = link_name(folder + "/subsystem");
  if (!subsystem) return;
  Child child{.name = folder.substr(folder.rfind('/') + 1), .folder = folder, .subsystem = *subsystem};
  child.number = parse_device_number(read_text(folder + "/dev").value_or(""));
  if (child.number) child.node = "/dev/" + node_name(child);
  children.push_back(std::move(child));
}

void walk(const std::string& folder, unsigned depth, std::vector<Child>& children) {
  if (depth > deepest) return;
  std::error_code error;
  for (const auto& name : list(folder)) {
    const auto path = folder + '/' + name;
    if (std::filesystem::symlink_status(path, error).type() != std::filesystem::file_type::directory) continue;
    add_child(path, children);
    walk(path, depth + 1, children);
  }
}

/// "nvme0c1n2", one path to a disk, is part of "nvme0n2" (drivers/nvme/host/multipath.c names them).
std::optional<std::string> multipath_disk(const std::string& name) {
  const auto c = name.find('c'), n = name.rfind('n');
  if (!name.starts_with("nvme") || c == name.npos || n == name.npos || n < c) return std::nullopt;
  const std::string_view text = name;
  const auto subsystem = text.substr(4, c - 4), controller = text.substr(c + 1, n - c - 1), disk = text.substr(n + 1);
  if (!parse_number(subsystem) || !parse_number(controller) || !parse_number(disk)) return std::nullopt;
  return "nvme" + std::string(subsystem) + 'n' + std::string(disk);
}

void add_multipath_disks(const Root& root, const std::vector<std::string>& names, std::vector<Child>& children) {
  for (const auto& name : names) {
    const auto disk = multipath_disk(name);
    if (!disk) continue;
    const auto generic = "ng" + disk->substr(4);
    for (const auto& path : {"/class/block/" + *disk, "/class/nvme-generic/" + generic}) {
      const auto folder = canonical(root.sys + path);
      if (folder.empty()) continue;
      add_child(folder, children);
      walk(folder, 0, children);
    }
  }
}

} // namespace

std::vector<Child> children_of(const Root& root, const Function& function) {
  std::vector<Child> children;
  const auto folder = canonical(folder_of(root, function.bdf));
  if (folder.empty()) return children;
  walk(folder, 0, children);
  std::vector<std::string> names;
  for (const auto& child : children)
    if (child.subsystem == "block") names.push_back(child.name);
  add_multipath_disks(root, names, children);
  return children;
}

} // namespace smartio::vfio::host
