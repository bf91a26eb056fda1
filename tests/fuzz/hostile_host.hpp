// A host that is drawn in files, as in tests/unit/host_*.cpp, and a system that keeps watch over what it is asked.
#pragma once

#include "driver_kernel.hpp"
#include "hostile_files.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <stdexcept>
#include <sys/stat.h>

namespace testing {

inline void require(bool holds) {
  if (!holds) std::abort();
}

inline std::string plain_config() {
  std::string config(4096, '\0');
  config[0x06] = 0x10, config[0x34] = 0x40;                                               // a list of capabilities:
  config[0x40] = 0x01, config[0x41] = 0x50, config[0x50] = 0x11, config[0x52] = 0x20;     // power, MSI-X
  config[0x100] = 0x03, config[0x102] = 0x01, config[0x104] = 0x55, config[0x10b] = 0x66; // Device Serial Number
  return config;
}

inline void draw_drive(const Tree& tree) {
  add_function(tree, {});
  tree.file(device + "config", plain_config());
  tree.file(device + "resource", "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n");
  tree.file(device + "nvme/nvme0/serial", "S1\n");
  tree.file(device + "nvme/nvme0/state", "live\n");
  add_child(tree, device + "nvme/nvme0", "nvme", "1:3");
  add_child(tree, disk, "block", "259:0");
  add_child(tree, disk + "/nvme0n1p1", "block", "259:1");
  tree.folder(disk + "/nvme0n1p1/holders/dm-0");
  tree.file("sys/class/block/dm-0/dm/name", "vg-root\n");
}

inline void draw_others(const Tree& tree) {
  add_function(tree, {.bdf = "0000:07:00.0", .driver = "igb", .group = 15, .class_code = "0x020000"});
  add_child(tree, eth0, "net");
  tree.file(eth0 + "/flags", "0x1003\n");
  tree.file(eth0 + "/ifindex", "2\n");
  add_function(tree, {.bdf = "0000:05:00.0", .driver = "nouveau", .group = 16, .class_code = "0x030000"});
  add_child(tree, gpu + "graphics/fb0", "graphics", "29:0");
  add_function(tree, {.bdf = "0000:05:00.1", .driver = "snd_hda_intel", .group = 16, .class_code = "0x040300"});
  add_function(tree, {.bdf = "0000:00:01.0", .driver = "pcieport", .group = 16, .class_code = "0x060400"});
  add_function(tree, {.bdf = taken, .driver = "vfio-pci", .group = 17});
  tree.file(devices(taken) + "vfio-dev/vfio0/dev", "1:3\n");
}

inline void draw_kernel(const Tree& tree) {
  tree.file("sys/kernel/irq/24/chip_name", "IR-PCI-MSI\n");
  tree.file("proc/self/mountinfo", "36 1 259:1 / /data rw shared:1 - ext4 /dev/root rw\n");
  tree.link("proc/self/ns/pid", "pid:[4026531836]");
  tree.file("proc/sys/kernel/random/boot_id", "boot-1\n");
  add_process(tree, 4242, "qemu");
  tree.link("proc/4242/fd/3", "/dev/null");
  tree.link("proc/4242/fd/4", "anon_inode:[vfio-device]");
  tree.file("proc/4242/maps", "7f0000000000-7f0000001000 rw-s 00000000 00:05 1 /dev/nvme0n1\n");
}

/// The tree, and what its kernel answers. What is asked of that must stay where it belongs.
class HostileHost {
public:
  HostileHost() {
    draw_drive(tree);
    draw_others(tree);
    draw_kernel(tree);
  }

  host::System system() {
    auto system = kernel_.system();
    system.write = [this, write = system.write](const std::string& path, const std::string& text,
                                                std::chrono::milliseconds patience) -> smartio::Result<void> {
      require(path.starts_with(tree.root().sys + "/bus/pci/") && path.find("/../") == path.npos);
      if (refusal && obeyed == 0) return std::unexpected(*refusal);
      obeyed -= std::min(obeyed, 1U);
      try { // the tree that is written to may be anything
        return write(path, text, patience);
      } catch (const std::exception&) {
        return smartio::fail_errno(EIO, "write to " + path);
      }
    };
    system.open_exclusively = [this](const std::string& node) {
      require(node.starts_with(tree.root().dev + '/') && node.find("/../") == node.npos);
      return busy;
    };
    system.has_ipv4_address = [this](const std::string&) { return busy != 0; };
    system.patience = std::chrono::milliseconds(1);
    return system;
  }

  /// Changes the tree, as far as that can be.
  template <class Change> void change(const Change& what) const {
    try {
      what();
    } catch (const std::filesystem::filesystem_error&) {}
  }
  /// Puts something else where `place` was.
  template <class Change> void replace(const std::string& place, const Change& what) const {
    change([&] {
      tree.remove(place);
      tree.folder(std::filesystem::path(place).parent_path().string());
      what();
    });
  }

  Tree tree;
  int busy = 0;                          ///< what opening a disk exclusively says
  std::optional<smartio::Error> refusal; ///< what every write says, after
  unsigned obeyed = 0;                   ///< so many
  std::string config = plain_config();

private:
  DriverKernel kernel_{tree};
};

} // namespace testing
