// A tree of files in a temporary directory that stands for /sys, /dev, /proc, /run and /etc, and a kernel that binds
// drivers in it.
#pragma once

#include "host/pci.hpp"
#include "host/system.hpp"
#include "result.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace testing {

namespace host = smartio::vfio::host;

/// An empty directory that is removed at the end.
class Tree {
public:
  Tree() {
    std::string pattern = (std::filesystem::temp_directory_path() / "smartio-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  Tree(const Tree&) = delete;
  ~Tree() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  host::Root root() const { return {path_ + "/sys", path_ + "/dev", path_ + "/proc", path_ + "/run", path_ + "/etc"}; }
  std::string at(std::string_view name) const { return path_ + '/' + std::string(name); }

  void file(std::string_view name, std::string_view text) const {
    folder(std::filesystem::path(name).parent_path().string());
    std::ofstream(at(name), std::ios::binary) << text;
  }
  void folder(std::string_view name) const { std::filesystem::create_directories(at(name)); }
  /// `target` is within the tree, or absolute as it stands when it starts with '/'.
  void link(std::string_view name, std::string_view target) const {
    folder(std::filesystem::path(name).parent_path().string());
    std::filesystem::remove(at(name));
    std::filesystem::create_symlink(target.starts_with('/') ? std::string(target) : at(target), at(name));
  }
  void remove(std::string_view name) const { std::filesystem::remove_all(at(name)); }

private:
  std::string path_;
};

/// What a test says of a function; the rest is as for an NVMe drive alone in its group.
struct Described {
  std::string bdf = "0000:06:00.0";
  std::string driver = "nvme"; ///< "": none
  unsigned group = 14;
  std::string class_code = "0x010802", vendor = "0x8086", device = "0xf1a5";
};

inline std::string devices(std::string_view bdf) { return "sys/bus/pci/devices/" + std::string(bdf) + '/'; }

/// The function's folder is below sys/devices, as the kernel has it, and linked from the bus.
inline void add_function(const Tree& tree, const Described& function) {
  const auto real = "sys/devices/pci0000:00/" + function.bdf;
  tree.folder(real);
  tree.link("sys/bus/pci/devices/" + function.bdf, real);
  const auto folder = devices(function.bdf);
  tree.file(folder + "vendor", function.vendor + '\n');
  tree.file(folder + "device", function.device + '\n');
  tree.file(folder + "class", function.class_code + '\n');
  tree.file(folder + "revision", "0x03\n");
  tree.file(folder + "subsystem_vendor", "0x8086\n");
  tree.file(folder + "subsystem_device", "0x390a\n");
  tree.file(folder + "driver_override", "(null)\n");
  tree.file(folder + "reset_method", "flr bus\n");
  const auto group = "sys/kernel/iommu_groups/" + std::to_string(function.group);
  tree.link(folder + "iommu_group", group);
  tree.link(group + "/devices/" + function.bdf, real);
  if (function.driver.empty()) return;
  tree.file("sys/bus/pci/drivers/" + function.driver + "/bind", "");
  tree.link(folder + "driver", "sys/bus/pci/drivers/" + function.driver);
}

/// A device below a function's folder: its subsystem, and the number of its node unless "".
inline void add_child(const Tree& tree, const std::string& folder, std::string_view subsystem,
                      std::string_view number = "", std::string_view node = "") {
  tree.link(folder + "/subsystem", "sys/class/" + std::string(subsystem));
  if (!number.empty()) tree.file(folder + "/dev", std::string(number) + '\n');
  if (!node.empty()) tree.file(folder + "/uevent", "MAJOR=1\nDEVNAME=" + std::string(node) + '\n');
}

inline host::Function function(const Tree& tree, std::string_view bdf = "0000:06:00.0") {
  auto result = host::read_function(tree.root(), *smartio::parse_bdf(bdf));
  if (!result) std::abort();
  return *result;
}

/// A System for checks: every block device is free, no interface has an address or anything attached.
inline host::System free_system() {
  return {.write = [](const std::string&, const std::string&,
                      std::chrono::milliseconds) { return smartio::Result<void>{}; },
          .read = [](const std::string& path,
                     std::chrono::milliseconds) { return smartio::Result<std::string>(*host::read_text(path)); },
          .load_module = [](const char*) {},
          .open_exclusively = [](const std::string&) { return 0; },
          .has_ipv4_address = [](const std::string&) { return false; },
          .ask_netlink = [](const host::Question&) { return std::string(); }};
}

} // namespace testing
