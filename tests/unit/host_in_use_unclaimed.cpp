// Uses of a function that leave no claim on it: the kernel's own, and what other namespaces hide.
#include "catch.hpp"
#include "used_devices.hpp"

#include <sys/stat.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

TEST_CASE("what the kernel has open without a claim is in use, and how it is named there does not matter") {
  const std::string target = "sys/kernel/config/nvmet/subsystems/nqn.x/",
                    scsi = "sys/kernel/config/target/core/iblock_0/d/";
  struct Row {
    const char* what;
    std::vector<std::pair<std::string, std::string>> files;
    std::string use; ///< empty: none
  };
  const std::vector<Row> rows{
      {"a loop device on a partition",
       {{"sys/class/block/loop3/loop/backing_file", "/dev/nvme0n1p1\n"}},
       "/dev/nvme0n1p1 is behind /dev/loop3 (losetup -d /dev/loop3 ends that)"},
      {"one on a file", {{"sys/class/block/loop3/loop/backing_file", "/home/image (deleted)\n"}}, ""},
      {"one on another disk with a longer name",
       {{"sys/class/block/loop3/loop/backing_file", "/dev/nvme0n1p11\n"}},
       ""},
      {"a namespace of the NVMe target",
       {{target + "namespaces/7/device_path", "/dev/nvme0n1\n"}, {target + "namespaces/7/enable", "1\n"}},
       "/dev/nvme0n1 is namespace 7 of the kernel's NVMe target nqn.x"},
      {"one that is not enabled",
       {{target + "namespaces/7/device_path", "/dev/nvme0n1\n"}, {target + "namespaces/7/enable", "0\n"}},
       ""},
      {"a controller that is passed through",
       {{target + "passthru/device_path", "/dev/nvme0\n"}, {target + "passthru/enable", "1\n"}},
       "/dev/nvme0 is passed through by the kernel's NVMe target nqn.x"},
      {"a disk of the SCSI target",
       {{scsi + "udev_path", "/dev/nvme0n1\n"}, {scsi + "enable", "1\n"}},
       "/dev/nvme0n1 is behind d of the kernel's SCSI target"},
      {"a USB gadget",
       {{"sys/kernel/config/usb_gadget/g/functions/mass_storage.0/lun.0/file", "/dev/nvme0n1p2\n"}},
       "/dev/nvme0n1p2 is exported by the USB gadget g"},
      {"the place that the host resumes from",
       {{"sys/power/resume", "259:2\n"}},
       "/dev/nvme0n1p2 is what the host resumes from after hibernation"},
      {"another one", {{"sys/power/resume", "259:4\n"}}, ""},
      {"none", {{"sys/power/resume", "0:0\n"}}, ""},
      {"nonsense", {{"sys/power/resume", "x\n"}, {"sys/class/block/loop3/loop/backing_file", "\n"}}, ""},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    Drive drive;
    for (const auto& [file, text] : row.files) drive.tree.file(file, text);
    CHECK(drive.uses() == (row.use.empty() ? Uses{} : Uses{row.use}));
  }
}

TEST_CASE("a disk that is exported under another name of its node is found by the node") {
  Drive drive;
  add_child(drive.tree, device + "nvme/nvme0", "nvme", "1:3"); // the number of /dev/null
  drive.tree.link("dev/by-id/drive", "/dev/null");
  const std::string target = "sys/kernel/config/nvmet/subsystems/nqn.x/passthru/";
  drive.tree.file(target + "device_path", "/dev/by-id/drive\n");
  drive.tree.file(target + "enable", "1\n");
  CHECK(drive.uses() == Uses{"/dev/nvme0 is passed through by the kernel's NVMe target nqn.x"});
  drive.tree.link("dev/by-id/drive", "/dev/zero");
  CHECK(drive.uses().empty());
}

TEST_CASE("a DMA channel that somebody has, and a watchdog that runs, are in use without being open") {
  const Tree tree;
  add_function(tree, {.driver = "ioatdma", .class_code = "0x088000"});
  add_child(tree, device + "dma/dma0chan1", "dma");
  add_child(tree, device + "watchdog/watchdog0", "watchdog", "248:0");
  tree.file(device + "dma/dma0chan1/in_use", "0\n");
  tree.file(device + "watchdog/watchdog0/state", "inactive\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
  tree.file(device + "dma/dma0chan1/in_use", "2\n");
  tree.file(device + "watchdog/watchdog0/state", "active\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) ==
        Uses{"dma0chan1 is a DMA channel that is taken", "watchdog0 watches over the host"});
}

TEST_CASE("who has a node open is not known where processes of the host are not to be seen") {
  Drive drive;
  const auto see = [&drive](const std::string& pid_namespace) {
    std::filesystem::create_directories(drive.tree.at("proc/self/ns"));
    std::filesystem::remove(drive.tree.at("proc/self/ns/pid"));
    std::filesystem::create_symlink(pid_namespace, drive.tree.at("proc/self/ns/pid"));
  };
  see("pid:[4026531836]");
  CHECK(drive.uses().empty());
  see("pid:[4026532001]");
  CHECK(drive.uses() == Uses{"whether another process has /dev/nvme0 open cannot be seen from this PID namespace"});
}

TEST_CASE("an interface with a packet socket is in use, by whoever has it if that is to be seen") {
  Interface interface_;
  interface_.tree.file(interface + "/ifindex", "2\n");
  const auto packet = [&interface_](const std::string& index) {
    interface_.tree.file("proc/net/packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
                                            "0000000000000000 3      2    0800   " +
                                                index + "     1 0      0      21344 \n");
  };
  for (const auto* other : {"0", "3", "22", "x", "-"}) {
    packet(other);
    CHECK(interface_.uses().empty());
  }
  packet("2");
  CHECK(interface_.uses() == Uses{"eth0 has a packet socket"});
  add_process(interface_.tree, 71, "udhcpc");
  interface_.tree.link("proc/71/fd/4", "/socket:[21344]");
  add_process(interface_.tree, 72, "other");
  interface_.tree.link("proc/72/fd/4", "/socket:[2134]");
  CHECK(interface_.uses() == Uses{"eth0 has a packet socket of process 71 (udhcpc)"});
}

TEST_CASE("a network function whose driver made no interface that is to be seen has it in another namespace") {
  struct Row {
    const char *driver, *class_code, *child;
    bool used;
  };
  for (const auto& row :
       {Row{"igb", "0x020000", "", true}, Row{"igb", "0x020000", "net", false}, Row{"iwlwifi", "0x028000", "", true},
        Row{"mlx5_core", "0x020700", "infiniband", false}, Row{"vfio-pci", "0x020000", "", false},
        Row{"pci-stub", "0x020000", "", false}, Row{"", "0x020000", "", false}, Row{"nvme", "0x010802", "", false}}) {
    INFO(row.driver << ' ' << row.class_code << ' ' << row.child);
    const Tree tree;
    add_function(tree, {.driver = row.driver, .class_code = row.class_code});
    if (*row.child != 0) add_child(tree, device + "virtio0/" + row.child + "/x0", row.child);
    const auto uses = uses_of(tree.root(), function(tree), free_system());
    if (row.used)
      CHECK(uses == Uses{"the network interface that " + std::string(row.driver) +
                         " made of 06:00.0 is not to be seen here: it is in another network namespace"});
    else
      CHECK(uses.empty());
  }
}

TEST_CASE("a pipe in the place of a table or an attribute is not waited for") {
  Drive drive;
  drive.tree.folder("proc/self");
  for (const auto& place : {std::string("proc/self/mountinfo"), std::string("proc/swaps"), disk + "/removable"})
    REQUIRE(::mkfifo(drive.tree.at(place).c_str(), 0600) == 0);
  drive.tree.remove(disk + "/dev");
  REQUIRE(::mkfifo(drive.tree.at(disk + "/dev").c_str(), 0600) == 0);
  CHECK(drive.uses().empty());
}
