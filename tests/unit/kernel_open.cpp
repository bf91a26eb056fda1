// Opening and closing: the order of the kernel's calls, which interface is taken, and what each failure leaves and
// says.
#include "catch.hpp"
#include "checks.hpp"
#include "scripted_system.hpp"

using namespace testing;
using kernel::Interface;
using Strings = std::vector<std::string>;

namespace {

const Strings type1_calls{"open /dev/vfio/12",
                          "open /dev/vfio/vfio",
                          "group_viable",
                          "set_container",
                          "set_iommu",
                          "group_device 0000:06:00.0",
                          "limits",
                          "device_info",
                          "set_irqs 24 4 0+1 fd",
                          "set_irqs 24 3 0+1 fd",
                          "config",
                          "reset",
                          "config"};
const Strings iommufd_calls{"open /dev/iommu",
                            "allocate_space",
                            "open /dev/vfio/devices/vfio3",
                            "bind",
                            "probe_dma_buf",
                            "attach",
                            "limits",
                            "device_info",
                            "set_irqs 24 4 0+1 fd",
                            "set_irqs 24 3 0+1 fd",
                            "config",
                            "reset",
                            "config"};

kernel::Options by(Interface interface) { return {.bdf = {0, 6, 0, 0}, .interface = interface}; }

void give_iommufd(ScriptedSystem& system) { system.cdev = system.dma_buf = true; }

/// The error of an open for which `call` fails.
Error error_of(Interface interface, const std::string& call, int number) {
  KernelBed bed;
  give_iommufd(*bed.system);
  bed.system->fail(call, number);
  const auto opened = bed.open(by(interface));
  REQUIRE_FALSE(opened);
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
  CHECK(bed.system->mappings() == 0);
  return opened.error();
}

bool says(const Error& error, std::string_view part) { return to_string(error).find(part) != std::string::npos; }

} // namespace

TEST_CASE("TYPE1: a device is opened by its group, asked for at once, made quiet and reset") {
  KernelBed bed;
  const auto device = bed.open(by(Interface::type1));
  REQUIRE(device);
  CHECK(bed.system->calls() == type1_calls);
  CHECK(bed.system->command() == 2); // memory space on, bus mastering off
  CHECK((*device)->interface() == Interface::type1);
  CHECK((*device)->group() == 12);
  CHECK((*device)->iova_ranges() == bed.system->ranges);
  CHECK(std::get<Info>(bed.ask(**device, GetInfo{}).value()).iovas == bed.system->ranges);
  bed.close(*device);
}

TEST_CASE("iommufd: a device is opened by its own node") {
  KernelBed bed;
  give_iommufd(*bed.system);
  const auto device = bed.open(by(Interface::iommufd));
  REQUIRE(device);
  CHECK(bed.system->calls() == iommufd_calls);
  CHECK((*device)->interface() == Interface::iommufd);
  bed.close(*device);
  CHECK(bed.system->closed() == Strings{"/dev/vfio/devices/vfio3", "/dev/iommu"});
}

TEST_CASE("TYPE1: the device is closed before its group, and the group before its container") {
  KernelBed bed;
  const auto device = bed.open();
  REQUIRE(device);
  bed.close(*device);
  CHECK(bed.system->closed() == Strings{"device", "/dev/vfio/12", "/dev/vfio/vfio"});
  CHECK(bed.system->command() == 2);
}

TEST_CASE("TYPE1: an opening that fails closes in the same order") {
  KernelBed bed;
  bed.system->fail("limits", EIO);
  CHECK(fails_with(bed.open(), EIO));
  CHECK(bed.system->closed() == Strings{"device", "/dev/vfio/12", "/dev/vfio/vfio"});
}

TEST_CASE("a device that is dropped without being closed is closed all the same") {
  KernelBed bed;
  bed.open().value().reset();
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
}

TEST_CASE("a device is opened with its registers on, and bus mastering off, whatever it was before") {
  for (const int command : {0, 2, 4, 7}) {
    KernelBed bed;
    bed.system->put(4, {command, 4}); // interrupts by INTx disabled
    const auto device = bed.open().value();
    CHECK(bed.system->command() == (2 | (command & 1)));
    CHECK(bed.system->config[5] == std::byte{4});
    bed.close(device);
  }
}

TEST_CASE("a device that cannot be reset is not reset") {
  KernelBed bed;
  bed.system->device_flags = device_flag_pci;
  const auto device = bed.open();
  REQUIRE(device);
  CHECK(bed.system->calls().back() == "config");
  bed.close(*device);
}

TEST_CASE("iommufd is taken where the kernel has it all, and only there") {
  struct Row {
    bool cdev, dma_buf;
    Interface taken;
  };
  for (const auto& row : {Row{false, false, Interface::type1}, Row{true, false, Interface::type1},
                          Row{false, true, Interface::type1}, Row{true, true, Interface::iommufd}}) {
    KernelBed bed;
    bed.system->cdev = row.cdev;
    bed.system->dma_buf = row.dma_buf;
    const auto device = bed.open();
    REQUIRE(device);
    CHECK((*device)->interface() == row.taken);
    bed.close(*device);
    CHECK(bed.system->open_descriptors() == 0);
  }
}

TEST_CASE("iommufd that was asked for and is not possible is an error that says why") {
  CHECK(says(error_of(Interface::iommufd, "open /dev/iommu", ENOENT), "this kernel has no iommufd"));
  CHECK(says(error_of(Interface::iommufd, "probe_dma_buf", ENOTTY), "dma-buf"));
  KernelBed bed;
  const auto opened = bed.open(by(Interface::iommufd));
  REQUIRE(fails_with(opened, Errc::wrong_state));
  CHECK(says(opened.error(), "no VFIO character device"));
}

TEST_CASE("a failure of any step of opening leaves nothing open") {
  for (const auto& call : type1_calls) error_of(Interface::type1, call, EPERM);
  for (const auto& call : iommufd_calls) error_of(Interface::iommufd, call, EPERM);
  for (const auto* call : {"region", "read_link"}) error_of(Interface::type1, call, EINVAL);
}

TEST_CASE("errors say what to do, and programs can tell them apart") {
  struct Row {
    Interface interface;
    const char* call;
    int number;
    std::error_code code;
    const char* says;
  };
  const auto system = [](int number) { return std::error_code(number, std::system_category()); };
  const Row rows[]{
      {Interface::type1, "read_link /sys/bus/pci/devices/0000:06:00.0", ENOENT, Errc::no_such_device,
       "no PCI function"},
      {Interface::type1, "read_link /sys/bus/pci/devices/0000:06:00.0/iommu_group", ENOENT, Errc::wrong_state,
       "intel_iommu=on"},
      {Interface::type1, "open /dev/vfio/12", ENOENT, Errc::wrong_state, "bind 0000:06:00.0 to vfio-pci first"},
      {Interface::type1, "open /dev/vfio/12", EACCES, Errc::not_permitted, "run as root"},
      {Interface::type1, "open /dev/vfio/12", EBUSY, system(EBUSY), "/dev/vfio/12"},
      {Interface::type1, "group_viable", EAGAIN, Errc::wrong_state, "bind them too"},
      {Interface::type1, "set_iommu", EPERM, Errc::not_permitted, "does not remap interrupts"},
      {Interface::type1, "set_iommu", ENODEV, Errc::wrong_state, "vfio_iommu_type1"},
      {Interface::type1, "group_device", ENODEV, Errc::wrong_state, "not bound to vfio-pci"},
      {Interface::type1, "group_device", EACCES, Errc::not_permitted, "VF token"},
      {Interface::type1, "reset", EIO, system(EIO), "0000:06:00.0: VFIO_DEVICE_RESET"},
      {Interface::iommufd, "bind", EPERM, Errc::not_permitted, "does not remap interrupts"},
      {Interface::iommufd, "bind", EINVAL, system(EBUSY), "open elsewhere"},
      {Interface::iommufd, "bind", EACCES, Errc::not_permitted, "VF token"},
      {Interface::iommufd, "open /dev/vfio/devices/vfio3", EBUSY, system(EBUSY), "open elsewhere"},
      {Interface::iommufd, "attach", ENODEV, system(ENODEV), "VFIO_DEVICE_ATTACH_IOMMUFD_PT"},
  };
  for (const auto& row : rows) {
    const auto error = error_of(row.interface, row.call, row.number);
    INFO(row.call << ": " << to_string(error));
    CHECK(error.code == row.code);
    CHECK(says(error, row.says));
  }
}

TEST_CASE("a device that reads as ones is refused") {
  KernelBed bed;
  std::ranges::fill(bed.system->config, std::byte{0xff});
  const auto opened = bed.open();
  REQUIRE(fails_with(opened, EIO));
  CHECK(says(opened.error(), "does not answer"));
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 0; }));
}

TEST_CASE("a VF token goes with the name, or with the binding, and must be a UUID") {
  const std::string token = "00112233-4455-6677-8899-aabbccddeeff";
  KernelBed bed;
  give_iommufd(*bed.system);
  bed.system->can_have_vfs = true;
  for (const auto& [interface, call] : {std::pair(Interface::type1, "group_device 0000:06:00.0 vf_token=" + token),
                                        std::pair(Interface::iommufd, std::string("bind 00..ff"))}) {
    auto options = by(interface);
    options.vf_token = token;
    const auto device = bed.open(options);
    REQUIRE(device);
    const auto calls = bed.system->calls();
    CHECK(std::ranges::count(calls, call) == 1);
    bed.close(*device);
  }
  for (const auto* bad : {"", "0011223344556677-8899-aabbccddeeff00", "00112233-4455-6677-8899-aabbccddeefg",
                          "00112233-4455-6677-8899-aabbccddeeff extra=1"}) {
    auto options = by(Interface::type1);
    options.vf_token = bad;
    CHECK(fails_with(bed.open(options), Errc::bad_request));
  }
}

TEST_CASE("a VF token is given to physical functions, and to virtual ones whose physical function is on vfio-pci") {
  struct Row {
    bool can_have_vfs;
    const char* driver_of_physical;
    bool given;
  };
  for (const auto& row : {Row{false, "", false}, Row{true, "", true}, Row{false, "vfio-pci", true},
                          Row{false, "igb", false}, Row{false, "my-vfio-pci", false}}) {
    KernelBed bed;
    bed.system->can_have_vfs = row.can_have_vfs;
    bed.system->driver_of_physical = row.driver_of_physical;
    auto options = by(Interface::type1);
    options.vf_token = "00112233-4455-6677-8899-aabbccddeeff";
    const auto device = bed.open(options);
    REQUIRE(device);
    const auto calls = bed.system->calls();
    CHECK(std::ranges::any_of(calls, [](const auto& call) {
            return call.ends_with("vf_token=00112233-4455-6677-8899-"
                                  "aabbccddeeff");
          }) == row.given);
    bed.close(*device);
  }
}

TEST_CASE("functions of one group share it, and the last to leave closes it") {
  KernelBed bed;
  const auto first = bed.open();
  REQUIRE(first);
  bed.system->calls();
  const auto second = bed.open({.bdf = {0, 6, 0, 1}});
  REQUIRE(second);
  CHECK(bed.system->calls().front() == "group_device 0000:06:00.1");
  bed.close(*first);
  CHECK(bed.system->closed() == Strings{"device"});
  bed.close(*second);
  CHECK(bed.system->closed() == Strings{"device", "/dev/vfio/12", "/dev/vfio/vfio"});
}

TEST_CASE("a companion cannot join the group by the other interface") {
  KernelBed bed;
  const auto first = bed.open(by(Interface::type1));
  REQUIRE(first);
  give_iommufd(*bed.system);
  const auto opened = bed.open({.bdf = {0, 6, 0, 1}, .interface = Interface::iommufd});
  REQUIRE(fails_with(opened, Errc::wrong_state));
  CHECK(says(opened.error(), "by way of type1"));
  const auto follows = bed.open({.bdf = {0, 6, 0, 1}});
  REQUIRE(follows);
  CHECK((*follows)->interface() == Interface::type1);
  bed.close(*follows);
  bed.close(*first);
}

TEST_CASE("a companion that cannot be opened leaves the group to the others") {
  KernelBed bed;
  const auto first = bed.open();
  REQUIRE(first);
  for (const auto* call : {"group_device", "limits", "reset"}) {
    bed.system->fail(call, EIO);
    CHECK(fails_with(bed.open({.bdf = {0, 6, 0, 1}}), EIO));
    bed.system->succeed(call);
  }
  CHECK(bed.run_until([&bed] { return bed.system->open_descriptors() == 3; }));
  CHECK(bed.number(**first, GetInfo{}) == 0);
  bed.close(*first);
  CHECK(bed.system->open_descriptors() == 0);
}
