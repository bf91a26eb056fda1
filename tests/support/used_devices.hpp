// A drive and a network interface in a tree of files, which a test lets be used.
#pragma once

#include "fixture_tree.hpp"
#include "host/in_use.hpp"

#include <algorithm>
#include <set>

namespace testing {

using Uses = std::vector<std::string>;

inline const std::string device = devices("0000:06:00.0");
inline const std::string disk = device + "nvme/nvme0/nvme0n1";
inline const std::string interface = device + "net/eth0";

/// A drive with two partitions and a controller node (the number of /dev/null, so that it can be open).
struct Drive {
  Tree tree;
  std::set<std::string> busy; ///< nodes that cannot be opened exclusively
  host::System system = free_system();

  Drive() {
    add_function(tree, {});
    add_child(tree, device + "nvme/nvme0", "nvme", "1:3");
    add_child(tree, disk, "block", "259:0");
    add_child(tree, disk + "/nvme0n1p1", "block", "259:1");
    add_child(tree, disk + "/nvme0n1p2", "block", "259:2");
    // As the kernel does it: with a partition in use, the disk is too.
    system.open_exclusively = [this](const std::string& node) {
      const auto is_used = [&node](const std::string& used) { return used.starts_with(node); };
      return std::ranges::any_of(busy, is_used) ? EBUSY : 0;
    };
  }
  void take(const std::string& name) { busy.insert(tree.root().dev + '/' + name); }
  Uses uses() { return host::uses_of(tree.root(), function(tree), system); }
};

struct Interface {
  Tree tree;
  host::System system = free_system();

  Interface() {
    add_function(tree, {.driver = "igb", .class_code = "0x020000"});
    add_child(tree, interface, "net");
    tree.file(interface + "/flags", "0x1003\n");
    tree.file(interface + "/operstate", "up\n");
  }
  Uses uses() { return host::uses_of(tree.root(), function(tree), system); }
  void route(const std::string& line) {
    tree.file("proc/net/route",
              "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" + line + '\n');
  }
};

inline void add_process(const Tree& tree, int id, const std::string& name) {
  tree.file("proc/" + std::to_string(id) + "/comm", name + '\n');
  tree.folder("proc/" + std::to_string(id) + "/fd");
}

} // namespace testing
