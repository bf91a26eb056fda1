// Users within the kernel that leave no claim: loop devices and exported disks open them as anybody may, and whoever
// takes a DMA channel, starts a watchdog or adds memory has no descriptor of it.
#include "in_use_parts.hpp"

#include "result.hpp"

#include <algorithm>
#include <filesystem>
#include <glob.h>
#include <sys/stat.h>

namespace smartio::vfio::host {
namespace {

using Uses = std::vector<std::string>;

/// The files that a glob(7) pattern matches, sorted.
std::vector<std::string> matching(const std::string& pattern) {
  ::glob_t found{};
  std::vector<std::string> files;
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  return files;
}

/// The name of the folder `levels` above.
std::string above(std::filesystem::path path, unsigned levels) {
  for (; levels > 0; --levels) path = path.parent_path();
  return path.filename().string();
}

/// Whether a path, which may be a link of udev's, names the child.
bool names(const Root& root, const std::string& path, const Child& child) {
  if (path == child.node) return true;
  struct stat status {};
  const auto there = path.starts_with("/dev/") ? root.dev + path.substr(4) : path;
  if (::stat(there.c_str(), &status) != 0 || status.st_rdev != child.number) return false;
  return child.subsystem == "block" ? S_ISBLK(status.st_mode) : S_ISCHR(status.st_mode);
}

/// A file that holds the path of what somebody uses, and the sentence about that, of what is used and where that
/// stands.
struct Sign {
  const char* pattern; ///< below /sys
  std::string (*tell)(const std::string& node, const std::string& file);
  const char* enabled; ///< "0" in the file of that name beside it: the path is only noted, nothing is open
};

const Sign signs[]{
    // drivers/block/loop.c
    {"/class/block/loop*/loop/backing_file",
     [](const std::string& node, const std::string& file) {
       return fmt::format("{} is behind /dev/{} (losetup -d /dev/{} ends that)", node, above(file, 2), above(file, 2));
     },
     nullptr},
    // drivers/nvme/target/configfs.c
    {"/kernel/config/nvmet/subsystems/*/namespaces/*/device_path",
     [](const std::string& node, const std::string& file) {
       return fmt::format("{} is namespace {} of the kernel's NVMe target {}", node, above(file, 1), above(file, 3));
     },
     "enable"},
    {"/kernel/config/nvmet/subsystems/*/passthru/device_path",
     [](const std::string& node, const std::string& file) {
       return fmt::format("{} is passed through by the kernel's NVMe target {}", node, above(file, 2));
     },
     "enable"},
    // drivers/target/target_core_configfs.c; vhost-scsi and the fabrics export these
    {"/kernel/config/target/core/*/*/udev_path",
     [](const std::string& node, const std::string& file) {
       return fmt::format("{} is behind {} of the kernel's SCSI target", node, above(file, 1));
     },
     "enable"},
    // drivers/usb/gadget/function/f_mass_storage.c
    {"/kernel/config/usb_gadget/*/functions/mass_storage.*/lun.*/file",
     [](const std::string& node, const std::string& file) {
       return fmt::format("{} is exported by the USB gadget {}", node, above(file, 4));
     },
     nullptr},
};

void find_signs(const Root& root, const std::vector<Child>& children, Uses& uses) {
  for (const auto& sign : signs)
    for (const auto& file : matching(root.sys + sign.pattern)) {
      const auto path = read_text(file).value_or("");
      const auto beside = std::filesystem::path(file).parent_path().string() + '/';
      if (path.empty() || (sign.enabled != nullptr && read_number(beside + sign.enabled) == 0)) continue;
      for (const auto& child : children)
        if (child.number && names(root, path, child)) uses.push_back(sign.tell(child.node, file));
    }
}

/// A device as /etc/fstab names it, as a path.
std::string path_of(std::string_view device) {
  constexpr std::pair<std::string_view, std::string_view> links[]{{"UUID=", "/dev/disk/by-uuid/"},
                                                                  {"LABEL=", "/dev/disk/by-label/"},
                                                                  {"PARTUUID=", "/dev/disk/by-partuuid/"},
                                                                  {"PARTLABEL=", "/dev/disk/by-partlabel/"}};
  for (const auto& [start, folder] : links)
    if (device.starts_with(start)) return std::string(folder).append(device.substr(start.size()));
  return std::string(device);
}

/// kdump.conf(5): "raw DEVICE", or the type of a file system and the device that holds it, not mounted now. Where dumps
/// go to a directory, as with Debian's kdump-tools, that is of a mounted one.
void find_crash_dump(const Root& root, const std::vector<Child>& children, Uses& uses) {
  if (read_number(root.sys + "/kernel/kexec_crash_loaded") != 1) return;
  const auto text = read_text(root.etc + "/kdump.conf").value_or("");
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    if (words.size() < 2 || words[0].starts_with('#')) continue;
    const auto path = path_of(words[1]);
    for (const auto& child : children)
      if (path.starts_with("/dev/") && child.number && names(root, path, child))
        uses.push_back(child.node + " is where a crash dump goes");
  }
}

/// Documentation/ABI/testing/sysfs-bus-cxl: the memory device of an endpoint, and the region that its memory is part
/// of.
void find_cxl_regions(const Root& root, const Child& child, Uses& uses) {
  for (const auto& file : matching(root.sys + "/bus/cxl/devices/endpoint*/decoder*/region"))
    if (const auto region = read_text(file).value_or("");
        !region.empty() && link_name(std::filesystem::path(file).parent_path().parent_path() / "uport") == child.name)
      uses.push_back(fmt::format("{} is part of the CXL memory {}", child.name, region));
}

} // namespace

void find_kernel_uses(const Root& root, const std::vector<Child>& children, Uses& uses) {
  find_signs(root, children, uses);
  find_crash_dump(root, children, uses);
  const auto resume = parse_device_number(read_text(root.sys + "/power/resume").value_or(""));
  for (const auto& child : children) {
    if (child.subsystem == "block" && resume && *resume != 0 && child.number == resume)
      uses.push_back(child.node + " is what the host resumes from after hibernation");
    if (child.subsystem == "cxl") find_cxl_regions(root, child, uses);
    // Documentation/ABI/stable/sysfs-driver-dma: how many clients a channel has.
    if (child.subsystem == "dma" && read_number(child.folder + "/in_use").value_or(0) != 0)
      uses.push_back(child.name + " is a DMA channel that is taken");
    // Documentation/ABI/testing/sysfs-class-watchdog
    if (child.subsystem == "watchdog" && read_text(child.folder + "/state") == "active")
      uses.push_back(child.name + " watches over the host");
  }
}

} // namespace smartio::vfio::host
