// Every way a host can use a function, and those that look like it and are not.
#include "catch.hpp"
#include "host/holders.hpp"
#include "host/mounts.hpp"
#include "used_devices.hpp"

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

TEST_CASE("a drive that nothing uses is free") { CHECK(Drive().uses().empty()); }

TEST_CASE("a mounted disk or partition is in use") {
  Drive drive;
  drive.take("nvme0n1p1");
  drive.tree.file("proc/self/mountinfo", "22 1 0:21 / /proc rw shared:5 - proc proc rw\n"
                                         "36 1 259:1 / /with\\040blank rw,noatime shared:1 - ext4 /dev/root rw\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p1 is mounted on /with blank"});
  drive.busy.clear();
  drive.take("nvme0n1");
  drive.tree.file("proc/self/mountinfo", "36 1 259:0 / /data rw - xfs /dev/nvme0n1 rw\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1 is mounted on /data"});
}

TEST_CASE("a file system with a device number of its own is found by its source") {
  Drive drive;
  drive.take("nvme0n1p2");
  drive.tree.file("proc/self/mountinfo",
                  "36 1 0:45 /@home /home rw shared:1 - btrfs /dev/nvme0n1p2 rw,subvol=/@home\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p2 is mounted on /home"});
}

TEST_CASE("the second device of a btrfs file system is in use") {
  Drive drive;
  drive.take("nvme0n1p2");
  drive.tree.file("proc/self/mountinfo", "36 1 0:45 / /home rw - btrfs /dev/sda1 rw\n");
  drive.tree.folder("sys/fs/btrfs/6f5c/devices/nvme0n1p2");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p2 is part of the mounted btrfs file system 6f5c"});
}

TEST_CASE("swap space is in use") {
  Drive drive;
  drive.take("nvme0n1p2");
  drive.tree.file("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
                                "/dev/nvme0n1p2                          partition\t999420\t\t0\t\t-2\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p2 is swap space"});
}

TEST_CASE("a member of a RAID array is in use") {
  Drive drive;
  drive.take("nvme0n1p1");
  drive.tree.folder(disk + "/nvme0n1p1/holders/md0");
  drive.tree.folder("sys/class/block/md0/md");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p1 is part of the RAID array /dev/md0"});
}

TEST_CASE("a device below LVM or dm-crypt is in use") {
  Drive drive;
  drive.take("nvme0n1p1");
  drive.tree.folder(disk + "/nvme0n1p1/holders/dm-0");
  drive.tree.file("sys/class/block/dm-0/dm/name", "vg-root\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p1 is part of the device mapper volume vg-root"});
}

TEST_CASE("a member of a ZFS pool, which only the kernel knows of, is in use") {
  Drive drive;
  drive.take("nvme0n1p1");
  drive.tree.file("run/udev/data/b259:1", "S:disk/by-id/x\nE:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p1 is in use by the ZFS pool tank"});
}

TEST_CASE("what cannot be opened exclusively is in use, whoever it is, and only where it is") {
  Drive drive;
  drive.take("nvme0n1p1");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p1 is in use by something"});
  drive.busy = {drive.tree.root().dev + "/nvme0n1"};
  CHECK(drive.uses() == Uses{"/dev/nvme0n1 is in use by something"});
}

TEST_CASE("what cannot be checked counts as in use; a drive without a medium does not") {
  Drive drive;
  drive.system.open_exclusively = [](const std::string&) { return ENOMEDIUM; };
  CHECK(drive.uses().empty());
  drive.system.open_exclusively = [](const std::string& node) { return node.ends_with("p2") ? EACCES : 0; };
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p2 cannot be checked: Permission denied"});
}

TEST_CASE("with NVMe multipath the disk stands elsewhere, and is found") {
  Drive drive;
  drive.tree.remove("sys/devices/pci0000:00/0000:06:00.0/nvme/nvme0/nvme0n1");
  add_child(drive.tree, device + "nvme/nvme0/nvme3c0n1", "block");
  const std::string head = "sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1";
  add_child(drive.tree, head, "block", "259:7");
  add_child(drive.tree, head + "/nvme3n1p1", "block", "259:8");
  drive.tree.link("sys/class/block/nvme3n1", head);
  drive.take("nvme3n1p1");
  drive.tree.file("proc/self/mountinfo", "36 1 259:8 / /data rw - ext4 /dev/nvme3n1p1 rw\n");
  CHECK(drive.uses() == Uses{"/dev/nvme3n1p1 is mounted on /data"});
}

TEST_CASE("two disks whose names begin alike are not confused") {
  Drive drive;
  add_child(drive.tree, device + "nvme/nvme0/nvme0n10", "block", "259:9");
  drive.system.open_exclusively = [](const std::string& node) {
    return node.ends_with("nvme0n1") || node.ends_with("nvme0n10") ? EBUSY : 0;
  };
  CHECK(drive.uses() == Uses{"/dev/nvme0n10 is in use by something", "/dev/nvme0n1 is in use by something"});
}

TEST_CASE("an interface that is up with a route is in use; the default route is named") {
  Interface interface_;
  interface_.route("eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0");
  CHECK(interface_.uses() == Uses{"eth0 is up and has the default route"});
  interface_.route("eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0");
  CHECK(interface_.uses() == Uses{"eth0 is up and has routes"});
  interface_.route("eth1\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0");
  CHECK(interface_.uses().empty());
}

TEST_CASE("an interface is in use by IPv6 alone, but not by what every interface has") {
  Interface interface_;
  const std::string none(32, '0'), link_local = "fe80" + std::string(28, '0'),
                                   multicast = "ff00" + std::string(28, '0');
  const auto routes = [&](const std::string& to, const std::string& length) {
    interface_.tree.file("proc/net/ipv6_route", to + ' ' + length + ' ' + none + " 00 " + none +
                                                    " 00000100 00000001 00000000 00000001     eth0\n");
  };
  routes(link_local, "40");
  CHECK(interface_.uses().empty());
  routes(multicast, "08");
  CHECK(interface_.uses().empty());
  routes("20010db8" + std::string(24, '0'), "40");
  CHECK(interface_.uses() == Uses{"eth0 is up and has routes"});
  routes(none, "00");
  CHECK(interface_.uses() == Uses{"eth0 is up and has the default route"});
}

TEST_CASE("an address alone is a use") {
  Interface interface_;
  interface_.tree.file("proc/net/if_inet6", "fe800000000000005054fffe00000001 02 40 20 80     eth0\n");
  CHECK(interface_.uses().empty());
  interface_.tree.file("proc/net/if_inet6", "20010db8000000000000000000000001 02 80 00 80     eth0\n");
  CHECK(interface_.uses() == Uses{"eth0 is up and has an address"});
  interface_.tree.remove("proc/net/if_inet6");
  interface_.system.has_ipv4_address = [](const std::string& name) { return name == "eth0"; };
  CHECK(interface_.uses() == Uses{"eth0 is up and has an address"});
}

TEST_CASE("an interface that is merely up, or down with an address, is free") {
  Interface interface_;
  CHECK(interface_.uses().empty());
  interface_.tree.file(interface + "/flags", "0x1002\n");
  interface_.system.has_ipv4_address = [](const std::string&) { return true; };
  CHECK(interface_.uses().empty());
}

TEST_CASE("a member of a bridge, bond or switch, and what carries a VLAN, MACsec or the like, is in use") {
  Interface interface_;
  interface_.tree.link(interface + "/master", "sys/devices/virtual/net/br0");
  interface_.tree.link(interface + "/upper_br0", "sys/devices/virtual/net/br0");
  CHECK(interface_.uses() == Uses{"eth0 is a member of br0"});
  interface_.tree.remove(interface + "/master");
  interface_.tree.remove(interface + "/upper_br0");
  for (const std::string upper : {"eth0.5", "macvtap0", "ipvl0", "macsec0", "lan1"}) { // the last is a port of DSA's
    interface_.tree.link(interface + "/upper_" + upper, "sys/devices/virtual/net/" + upper);
    CHECK(interface_.uses() == Uses{"eth0 carries " + upper});
    interface_.tree.remove(interface + "/upper_" + upper);
  }
  interface_.tree.link(interface + "/master", "sys/devices/virtual/net/ovs-system");
  CHECK(interface_.uses() == Uses{"eth0 is a member of ovs-system"});
}

TEST_CASE("the boot VGA device is in use, and a framebuffer with the text console") {
  const Tree tree;
  add_function(tree, {.driver = "nouveau", .class_code = "0x030000"});
  tree.file(device + "boot_vga", "1\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) == Uses{"06:00.0 is the boot VGA device"});
  tree.file(device + "boot_vga", "0\n");
  add_child(tree, device + "graphics/fb0", "graphics", "29:0");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
  tree.file("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n");
  tree.file("sys/class/vtconsole/vtcon1/bind", "1\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) == Uses{"/dev/fb0 shows the text console"});
}

TEST_CASE("the kernel's console is in use") {
  const Tree tree;
  add_function(tree, {.driver = "serial", .class_code = "0x070002"});
  add_child(tree, device + "tty/ttyS4", "tty", "4:68");
  tree.file("proc/consoles", "tty0                 -WU (EC  p  )    4:2\nttyS4                -W- (E   p a)    4:68\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) == Uses{"/dev/ttyS4 is the kernel's console"});
}

TEST_CASE("an open node is named with who has it open") {
  Drive drive;
  add_process(drive.tree, 1234, "nvme");
  add_child(drive.tree, disk, "block", "1:5");
  drive.tree.link("proc/1234/fd/5", "/dev/zero"); // 1:5 as well, but no block device
  CHECK(drive.uses().empty());
  drive.tree.link("proc/1234/fd/6", "/dev/null"); // 1:3
  CHECK(drive.uses() == Uses{"/dev/nvme0 is open in process 1234 (nvme)"});
}

TEST_CASE("a node that is mapped and no longer open counts too") {
  const Tree tree;
  add_function(tree, {.driver = "snd_hda_intel", .class_code = "0x040300"});
  add_child(tree, device + "sound/card0/pcmC0D0p", "sound", "116:4", "snd/pcmC0D0p");
  add_process(tree, 77, "pulseaudio");
  tree.file("proc/77/maps", "7f5a1000-7f5a2000 rw-s 00000000 00:06 512     /dev/snd/pcmC0D0p\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"/dev/snd/pcmC0D0p is open in process 77 (pulseaudio)"});
}

TEST_CASE("a node's name cannot lead out of /dev") {
  Drive drive;
  add_child(drive.tree, disk, "block", "259:0", "../etc/shadow");
  std::set<std::string> asked;
  drive.system.open_exclusively = [&asked](const std::string& node) { return asked.insert(node), 0; };
  drive.uses();
  CHECK(asked.contains(drive.tree.root().dev + "/nvme0n1"));
  for (const auto& node : asked) CHECK(node.find("..") == std::string::npos);
}

TEST_CASE("a physical function with virtual functions is in use") {
  Drive drive;
  drive.tree.file(device + "sriov_numvfs", "2\n");
  CHECK(drive.uses() == Uses{"2 of the virtual functions of 06:00.0 are enabled"});
}

TEST_CASE("a function that another program has through vfio-pci is in use") {
  const Tree tree;
  add_function(tree, {.driver = "vfio-pci"});
  tree.file("sys/class/vfio/14/dev", "1:3\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
  add_process(tree, 99, "qemu");
  tree.link("proc/99/fd/3", "/dev/null");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"06:00.0 is on vfio-pci and open in process 99 (qemu)"});
}

TEST_CASE("a VFIO descriptor says which device it is of, or is a perhaps") {
  const Tree tree;
  add_function(tree, {.driver = "vfio-pci"});
  add_process(tree, 99, "qemu");
  tree.link("proc/99/fd/7", "/anon_inode:[vfio-device]"); // as far as a link in a file system can say it
  const auto fdinfo = [&tree](const std::string& line) { tree.file("proc/99/fdinfo/7", "pos:\t0\n" + line); };
  fdinfo("");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"06:00.0 is on vfio-pci and open in perhaps process 99 (qemu)"});
  fdinfo("vfio-device-syspath: /sys/devices/pci0000:00/0000:07:00.0\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
  fdinfo("vfio-device-syspath: /sys/devices/pci0000:00/0000:06:00.0\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"06:00.0 is on vfio-pci and open in process 99 (qemu)"});
}

TEST_CASE("a VFIO device that is mapped and no longer open is a perhaps") {
  const Tree tree;
  add_function(tree, {.driver = "vfio-pci"});
  add_process(tree, 99, "qemu");
  tree.file("proc/99/maps", "7f5a1000-7f5a2000 rw-s 00000000 00:0f 1055     anon_inode:[vfio-device]\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"06:00.0 is on vfio-pci and open in perhaps process 99 (qemu)"});
}

TEST_CASE("broken tables of the kernel's are read as far as they make sense") {
  Drive drive;
  drive.tree.file("proc/self/mountinfo", "\n36 1 259:1 /\n- - - - - -\n36 1 x:1 / /a rw - \n1 2 3 4 5 6 - t\n");
  drive.tree.file("proc/swaps", "\n \n/\n");
  drive.tree.file("proc/net/route", "eth0\n");
  CHECK(drive.uses().empty());
  CHECK(unescape("a\\040b\\9\\04") == "a b\\9\\04");
}

TEST_CASE("a use is one line, whatever a process, a volume or a folder is named") {
  Drive drive;
  add_process(drive.tree, 1234, "a\nb");
  drive.tree.link("proc/1234/fd/6", "/dev/null"); // 1:3
  drive.tree.file("proc/self/mountinfo", "36 1 259:1 / /a\\012b\\033c rw - ext4 /dev/root rw\n");
  drive.tree.folder(disk + "/nvme0n1p2/holders/dm-0");
  drive.tree.file("sys/class/block/dm-0/dm/name", "a\r\nb\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0n1p2 is part of the device mapper volume a??b",
                             "/dev/nvme0n1p1 is mounted on /a?b?c", "/dev/nvme0 is open in process 1234 (a?b)"});
  CHECK(socket_holders(drive.tree.root(), 5).empty());
  drive.tree.link("proc/1234/fd/7", "/socket:[5]");
  CHECK(socket_holders(drive.tree.root(), 5) == Uses{"process 1234 (a?b)"});
}

TEST_CASE("a use is no longer than what it can be about, and a name that is a whole file costs no more") {
  Drive drive;
  drive.tree.folder(disk + "/nvme0n1p2/holders/dm-0");
  drive.tree.file("sys/class/block/dm-0/dm/name", std::string(5 << 20, 'x'));
  const auto uses = drive.uses();
  REQUIRE(uses.size() == 1);
  CHECK(uses.front() == "/dev/nvme0n1p2 is part of /dev/dm-0");
  drive.tree.file("proc/self/mountinfo", "36 1 259:2 / /" + std::string(1 << 20, 'x') + " rw - ext4 /dev/root rw\n");
  for (const auto& use : drive.uses()) CHECK(use.size() < 5000);
}
