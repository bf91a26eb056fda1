// The parts of in_use.hpp, each for one kind of device that a function can carry. Private to this folder.
#pragma once

#include "pci.hpp"
#include "system.hpp"

#include <string>
#include <vector>

namespace smartio::vfio::host {

/// A device of the kernel's below the function in the tree of devices.
struct Child {
  std::string name, folder;      ///< "nvme0n1p1"; its sysfs folder, without a slash at its end
  std::string subsystem;         ///< "block", "net", "sound" ...
  std::optional<::dev_t> number; ///< of its node
  std::string node;              ///< as messages name it: "/dev/nvme0n1p1"; empty without a number
};

/// All of them, parents first; with NVMe multipath also the disks whose paths they are.
std::vector<Child> children_of(const Root& root, const Function& function);

void find_block_uses(const Root& root, const std::vector<Child>& children, const System& system,
                     std::vector<std::string>& uses);
void find_kernel_uses(const Root& root, const std::vector<Child>& children, std::vector<std::string>& uses);
void find_network_uses(const Root& root, const Function& function, const std::vector<Child>& children,
                       const System& system, std::vector<std::string>& uses);
void find_attached(const Root& root, const Function& function, const std::vector<Child>& children, const System& system,
                   std::vector<std::string>& uses);
void find_console_uses(const Root& root, const Function& function, const std::vector<Child>& children,
                       std::vector<std::string>& uses);
void find_open_nodes(const Root& root, const std::vector<Child>& children, std::vector<std::string>& uses);

} // namespace smartio::vfio::host
