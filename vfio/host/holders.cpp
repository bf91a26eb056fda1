#include "holders.hpp"

#include "result.hpp"
#include "text.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio::vfio::host {
namespace {

constexpr std::string_view vfio_device_file = "anon_inode:[vfio-device]"; ///< what VFIO_GROUP_GET_DEVICE_FD gives
constexpr std::size_t longest_command = 64; ///< as fs/proc/array.c has it (proc_task_name)

struct Process {
  ::pid_t id;
  std::string folder, command;
};

std::vector<Process> processes(const Root& root) {
  std::vector<Process> found;
  for (const auto& name : list(root.proc)) {
    const auto id = parse_number(name, 10, INT32_MAX);
    if (!id) continue;
    auto folder = root.proc + '/' + name;
    auto command = printable(read_text(folder + "/comm").value_or("?").substr(0, longest_command));
    found.push_back({static_cast<::pid_t>(*id), std::move(folder), std::move(command)});
  }
  return found;
}

bool is_node(const struct stat& status, const Node& node) {
  return (node.block ? S_ISBLK(status.st_mode) : S_ISCHR(status.st_mode)) && status.st_rdev == node.number;
}

void find_mapped(const Process& process, std::span<const Node> nodes, std::vector<bool>& held) {
  const auto maps = read_table(process.folder + "/maps").value_or("");
  for (const auto line : lines_of(maps))
    for (std::size_t at = 0; at < nodes.size(); ++at)
      if (line.ends_with(' ' + nodes[at].path)) held[at] = true;
}

bool has_mapped_vfio(const Process& process) {
  const auto maps = read_table(process.folder + "/maps").value_or("");
  return std::ranges::any_of(lines_of(maps), [](std::string_view line) { return line.ends_with(vfio_device_file); });
}

void find_open(const Process& process, std::span<const Node> nodes, std::vector<bool>& held) {
  for (const auto& descriptor : list(process.folder + "/fd")) {
    struct stat status {};
    if (::stat((process.folder + "/fd/" + descriptor).c_str(), &status) != 0) continue;
    for (std::size_t at = 0; at < nodes.size(); ++at)
      if (is_node(status, nodes[at])) held[at] = true;
  }
}

/// Kernels since 6.17 write "vfio-device-syspath: /sys/devices/.../0000:01:00.0" into fdinfo.
std::optional<std::string> device_of(const Process& process, const std::string& descriptor) {
  const auto text = read_text(process.folder + "/fdinfo/" + descriptor).value_or("");
  for (const auto line : lines_of(text))
    if (line.starts_with("vfio-device-syspath:")) return std::string(line.substr(line.rfind('/') + 1));
  return std::nullopt;
}

enum class Holds { no, perhaps, yes };

Holds holds_vfio_device(const Process& process, const std::string& bdf) {
  auto holds = has_mapped_vfio(process) ? Holds::perhaps : Holds::no;
  for (const auto& descriptor : list(process.folder + "/fd")) {
    if (link_name(process.folder + "/fd/" + descriptor) != vfio_device_file) continue;
    const auto device = device_of(process, descriptor);
    if (device == bdf) return Holds::yes;
    if (!device) holds = Holds::perhaps;
  }
  return holds;
}

std::string name_of(::pid_t process, const std::string& command) {
  return fmt::format("process {} ({})", process, command);
}

/// /dev/vfio/GROUP, and the function's own node where the kernel makes one.
std::vector<Node> vfio_nodes(const Root& root, const Function& function) {
  std::vector<Node> nodes;
  const auto add = [&nodes](const std::string& folder, std::string path) {
    const auto number = parse_device_number(read_text(folder + "/dev").value_or(""));
    if (number) nodes.push_back({.path = std::move(path), .number = *number});
  };
  if (function.iommu_group) {
    const auto group = std::to_string(*function.iommu_group);
    add(root.sys + "/class/vfio/" + group, "/dev/vfio/" + group);
  }
  const auto folder = folder_of(root, function.bdf) + "vfio-dev/";
  for (const auto& name : list(folder)) add(folder + name, "/dev/vfio/devices/" + name);
  return nodes;
}

} // namespace

std::vector<Holder> holders_of(const Root& root, std::span<const Node> nodes) {
  std::vector<Holder> holders;
  if (nodes.empty()) return holders;
  for (const auto& process : processes(root)) {
    std::vector<bool> held(nodes.size());
    find_open(process, nodes, held);
    find_mapped(process, nodes, held);
    for (std::size_t at = 0; at < nodes.size(); ++at)
      if (held[at]) holders.push_back({at, process.id, process.command});
  }
  return holders;
}

std::vector<std::string> socket_holders(const Root& root, std::uint64_t inode) {
  std::vector<std::string> holders;
  const auto link = fmt::format("socket:[{}]", inode);
  for (const auto& process : processes(root)) {
    const auto is_it = [&](const std::string& descriptor) {
      return link_name(process.folder + "/fd/" + descriptor) == link;
    };
    if (std::ranges::any_of(list(process.folder + "/fd"), is_it))
      holders.push_back(name_of(process.id, process.command));
  }
  return holders;
}

std::vector<std::string> vfio_holders(const Root& root, const Function& function) {
  std::vector<std::string> sure, unsure;
  std::vector<::pid_t> seen{::getpid()};
  for (const auto& holder : holders_of(root, vfio_nodes(root, function))) {
    if (std::ranges::count(seen, holder.process) != 0) continue;
    seen.push_back(holder.process);
    sure.push_back(name_of(holder.process, holder.command));
  }
  for (const auto& process : processes(root)) {
    if (std::ranges::count(seen, process.id) != 0) continue;
    const auto holds = holds_vfio_device(process, to_string(function.bdf));
    if (holds == Holds::yes) sure.push_back(name_of(process.id, process.command));
    if (holds == Holds::perhaps) unsure.push_back("perhaps " + name_of(process.id, process.command));
  }
  return sure.empty() ? unsure : sure;
}

} // namespace smartio::vfio::host
