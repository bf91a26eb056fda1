// Which processes have a device node open or mapped, read from /proc. Needs root to see all of them.
#pragma once

#include "pci.hpp"

#include <span>
#include <string>
#include <sys/types.h>
#include <vector>

namespace smartio::vfio::host {

struct Node {
  std::string path; ///< as messages name it: "/dev/snd/pcmC0D0p"
  bool block = false;
  ::dev_t number = 0; ///< what identifies it, whatever its name
};

struct Holder {
  std::size_t node; ///< which of those asked about
  ::pid_t process = 0;
  std::string command;
};

/// One pass over all processes for all `nodes`; a process counts once for each node. A process that ends meanwhile, or
/// that this one may not look at, is not seen.
std::vector<Holder> holders_of(const Root& root, std::span<const Node> nodes);

/// "process 1234 (udhcpc)" for each process that has the socket open; as /proc/net's tables number it.
std::vector<std::string> socket_holders(const Root& root, std::uint64_t inode);

/// "process 1234 (qemu)" for each process, other than this one, that can keep the function on vfio-pci: its group or
/// VFIO node is open, or the VFIO device itself is. Old kernels do not tell which device a VFIO descriptor or mapping
/// is of; if no other holder is found, the processes that have one are named as "perhaps process ...".
std::vector<std::string> vfio_holders(const Root& root, const Function& function);

} // namespace smartio::vfio::host
