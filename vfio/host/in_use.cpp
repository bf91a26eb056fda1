#include "in_use.hpp"

#include "holders.hpp"
#include "in_use_parts.hpp"
#include "result.hpp"
#include "text.hpp"

#include <algorithm>

namespace smartio::vfio::host {
namespace {

/// Of the first PID namespace (PROC_PID_INIT_INO of linux/proc_ns.h), which is the host's.
constexpr std::string_view pid_namespace_of_host = "pid:[4026531836]";

constexpr std::size_t longest_use = 4608; ///< a path (PATH_MAX) and some words

/// Whether a framebuffer driver drives the text console. Which framebuffer it shows, the kernel does not say.
bool has_framebuffer_console(const Root& root) {
  const auto folder = root.sys + "/class/vtconsole/";
  return std::ranges::any_of(list(folder), [&folder](const std::string& name) {
    const auto driver = read_text(folder + name + "/name").value_or("");
    return driver.find("frame buffer") != driver.npos && read_number(folder + name + "/bind") == 1;
  });
}

/// /proc/consoles: "ttyS0 -W- (EC p a) 4:64"; the number is the last word.
bool is_kernel_console(const Root& root, const Child& child) {
  const auto text = read_table(root.proc + "/consoles").value_or("");
  return std::ranges::any_of(lines_of(text), [&child](std::string_view line) {
    const auto words = words_of(line);
    return !words.empty() && child.number && parse_device_number(words.back()) == child.number;
  });
}

/// A volume, a folder and a driver may be named anything.
std::string one_line(std::string use) {
  if (use.size() > longest_use) use.replace(longest_use, use.npos, "...");
  return printable(std::move(use));
}

bool is_vfio(const Function& function) { return function.driver == "vfio-pci"; }

} // namespace

void find_console_uses(const Root& root, const Function& function, const std::vector<Child>& children,
                       std::vector<std::string>& uses) {
  if (function.boot_vga) uses.push_back(short_name(function.bdf) + " is the boot VGA device");
  const bool framebuffer_console = !function.boot_vga && has_framebuffer_console(root);
  for (const auto& child : children) {
    if (child.subsystem == "graphics" && child.number && framebuffer_console)
      uses.push_back(child.node + " shows the text console");
    if (child.subsystem == "tty" && is_kernel_console(root, child))
      uses.push_back(child.node + " is the kernel's console");
  }
}

void find_open_nodes(const Root& root, const std::vector<Child>& children, std::vector<std::string>& uses) {
  std::vector<Node> nodes;
  for (const auto& child : children)
    if (child.number && child.subsystem != "vfio-dev")
      nodes.push_back({.path = child.node, .block = child.subsystem == "block", .number = *child.number});
  const auto pid_namespace = link_name(root.proc + "/self/ns/pid");
  if (!nodes.empty() && pid_namespace && pid_namespace != pid_namespace_of_host)
    uses.push_back(
        fmt::format("whether another process has {} open cannot be seen from this PID namespace", nodes.front().path));
  for (const auto& holder : holders_of(root, nodes))
    uses.push_back(
        fmt::format("{} is open in process {} ({})", nodes[holder.node].path, holder.process, holder.command));
}

std::vector<std::string> uses_of(const Root& root, const Function& function, const System& system) {
  std::vector<std::string> uses;
  const auto children = children_of(root, function);
  find_block_uses(root, children, system, uses);
  find_kernel_uses(root, children, uses);
  find_network_uses(root, function, children, system, uses);
  find_attached(root, function, children, system, uses);
  find_console_uses(root, function, children, uses);
  find_open_nodes(root, children, uses);
  if (function.virtual_functions != 0)
    uses.push_back(fmt::format("{} of the virtual functions of {} are enabled", function.virtual_functions,
                               short_name(function.bdf)));
  if (is_vfio(function))
    for (const auto& holder : vfio_holders(root, function))
      uses.push_back(fmt::format("{} is on vfio-pci and open in {}", short_name(function.bdf), holder));
  std::ranges::transform(uses, uses.begin(), one_line);
  return uses;
}

} // namespace smartio::vfio::host
