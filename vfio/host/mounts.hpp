// The kernel's tables of mounts and of swap space.
#pragma once

#include "sysfs.hpp"

#include <optional>
#include <string>
#include <vector>

namespace smartio::vfio::host {

struct Mount {
  std::optional<::dev_t> device; ///< of the file system: not a disk's for btrfs and others
  std::string point, source;
  std::optional<::dev_t> source_device; ///< what `source` is, if it is a block device
};

std::vector<Mount> read_mounts(const Root& root);      ///< of this mount namespace
std::vector<std::string> read_swaps(const Root& root); ///< "/dev/sda2"
/// \040 and the like in those tables, back to characters.
std::string unescape(std::string_view text);

} // namespace smartio::vfio::host
