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
      {"a place for crash dumps, named by its file system",
       {{"sys/kernel/kexec_crash_loaded", "1\n"}, {"etc/kdump.conf", "# raw /dev/x\npath /var\next4 UUID=6f\n"}},
       "/dev/nvme0 is where a crash dump goes"},
      {"a raw one",
       {{"sys/kernel/kexec_crash_loaded", "1\n"}, {"etc/kdump.conf", "raw\t/dev/nvme0n1p1\n"}},
       "/dev/nvme0n1p1 is where a crash dump goes"},
      {"one while no crash kernel is loaded",
       {{"sys/kernel/kexec_crash_loaded", "0\n"}, {"etc/kdump.conf", "raw /dev/nvme0n1p1\n"}},
       ""},
      {"one elsewhere",
       {{"sys/kernel/kexec_crash_loaded", "1\n"},
        {"etc/kdump.conf", "#raw /dev/nvme0n1p1\n# raw /dev/nvme0n1p1\nraw\nnfs host:/dev/nvme0n1p1\next4 LABEL=6f\n"}},
       ""},
      {"nonsense", {{"sys/power/resume", "x\n"}, {"sys/class/block/loop3/loop/backing_file", "\n"}}, ""},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    Drive drive;
    for (const auto& [file, text] : row.files) drive.tree.file(file, text);
    drive.tree.link("dev/disk/by-uuid/6f", "/dev/null"); // has the number that the controller has here
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

TEST_CASE("memory behind CXL that is part of a region is in use") {
  const Tree tree;
  add_function(tree, {.driver = "cxl_pci", .class_code = "0x050210"});
  add_child(tree, device + "mem3", "cxl", "1:5", "cxl/mem3");
  const std::string endpoint = "sys/bus/cxl/devices/endpoint2/";
  tree.link(endpoint + "uport", "sys/bus/cxl/devices/mem3");
  tree.file(endpoint + "decoder2.0/region", "\n");
  tree.file(endpoint + "decoder2.1/region", "region0\n");
  CHECK(uses_of(tree.root(), function(tree), free_system()) == Uses{"mem3 is part of the CXL memory region0"});
  tree.link(endpoint + "uport", "sys/bus/cxl/devices/mem4");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
}

TEST_CASE("what hangs on a USB controller is looked at as what sits in a slot is") {
  const Tree tree;
  add_function(tree, {.driver = "xhci_hcd", .class_code = "0x0c0330"});
  const auto hub = device + "usb1/1-1/";
  add_child(tree, device + "usb1", "usb", "189:0", "bus/usb/001/001");
  add_child(tree, hub.substr(0, hub.size() - 1), "usb", "189:1", "bus/usb/001/002"); // a hub
  const auto stick = hub + "1-1.1/1-1.1:1.0/host0/target0:0:0/0:0:0:0/block/sda";
  add_child(tree, stick, "block", "8:0");
  add_child(tree, stick + "/sda1", "block", "8:1");
  add_child(tree, hub + "1-1.2/1-1.2:1.0/net/eth5", "net");
  add_child(tree, hub + "1-1.3/1-1.3:1.0/0003:046D:C31C.0001/input/input3/event3", "input", "1:5", "input/event3");
  CHECK(uses_of(tree.root(), function(tree), free_system()).empty());
  tree.file("proc/self/mountinfo", "36 1 8:1 / /media rw - vfat /dev/sda1 rw\n");
  tree.file(hub + "1-1.2/1-1.2:1.0/net/eth5/flags", "0x1003\n");
  tree.file("proc/net/if_inet6", "20010db8000000000000000000000001 02 80 00 80     eth5\n");
  add_process(tree, 50, "Xorg");
  tree.link("proc/50/fd/4", "/dev/zero"); // 1:5
  CHECK(uses_of(tree.root(), function(tree), free_system()) == Uses{"/dev/sda1 is mounted on /media",
                                                                    "eth5 is up and has an address",
                                                                    "/dev/input/event3 is open in process 50 (Xorg)"});
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

TEST_CASE("a CAN interface that somebody receives from is in use") {
  Interface interface_;
  const auto receivers = [&interface_](const std::string& of, const std::string& line) {
    interface_.tree.file(
        "proc/net/can/rcvlist_" + of,
        "\nreceive list 'rx_all':\n  (any: no entry)\n  device   can_id   can_mask  function  userdata   "
        "matches  ident\n" +
            line);
  };
  receivers("all", "  (eth0: no entry)\n   eth01    000    00000000  0000000011111111  0000000022222222  7  raw\n");
  CHECK(interface_.uses().empty());
  for (const auto* kind : {"all", "fil", "inv", "sff", "eff", "err"}) {
    receivers(kind, "   eth0     000    00000000  0000000011111111  0000000022222222         7  raw\n");
    CHECK(interface_.uses() == Uses{"eth0 has a CAN socket"});
    interface_.tree.remove("proc/net/can");
  }
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
