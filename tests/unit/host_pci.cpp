// Identity of PCI functions from a made-up sysfs.
#include "host/pci.hpp"

#include "catch.hpp"
#include "checks.hpp"
#include "fixture_tree.hpp"

#include <sys/stat.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

namespace {

/// Config space with MSI-X of `vectors` behind a power management capability.
std::string config_with_msix(unsigned vectors, std::size_t size) {
  std::string config(size, '\0');
  config[0x06] = 0x10;
  config[0x34] = 0x40;
  if (size < 256) return config;
  config[0x40] = 0x01, config[0x41] = 0x50;
  config[0x50] = 0x11;
  config[0x52] = static_cast<char>((vectors - 1) & 0xff);
  config[0x53] = static_cast<char>(0x80 | (vectors - 1) >> 8); // enabled
  return config;
}

Bdf bdf(std::string_view text) { return *parse_bdf(text); }

} // namespace

TEST_CASE("a function is what its sysfs folder says") {
  const Tree tree;
  add_function(tree, {});
  tree.file(devices("0000:06:00.0") + "resource", "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n"
                                                  "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
                                                  "0x0000004000000000 0x00000040ffffffff 0x000000000014220c\n"
                                                  "0 0 0\n0 0 0\n0 0 0\n"
                                                  "0x00000000fe100000 0x00000000fe10ffff 0x0000000000040200\n");
  tree.file(devices("0000:06:00.0") + "config", config_with_msix(1025, 4096));
  const auto found = function(tree);
  CHECK(found.vendor == 0x8086);
  CHECK(found.device == 0xf1a5);
  CHECK(found.class_code == 0x010802);
  CHECK(found.revision == 3);
  CHECK(found.subsystem_vendor == 0x8086);
  CHECK(found.subsystem_device == 0x390a);
  CHECK(found.driver == "nvme");
  CHECK(found.iommu_group == 14U);
  CHECK(found.group_members == std::vector<Bdf>{bdf("0000:06:00.0")});
  CHECK(found.reset_methods == std::vector<std::string>{"flr", "bus"});
  CHECK(found.bar_size == std::array<std::uint64_t, 6>{0x4000, 0, 0x100000000, 0, 0, 0});
  CHECK(found.msix_vectors == 1025U);
  CHECK(!found.boot_vga);
  CHECK(!found.physical_function);
  CHECK(found.virtual_functions == 0);
}

TEST_CASE("a virtual function names its physical one, which counts them") {
  const Tree tree;
  add_function(tree, {});
  add_function(tree, {.bdf = "0000:06:00.1", .driver = ""});
  tree.link(devices("0000:06:00.1") + "physfn", "sys/devices/pci0000:00/0000:06:00.0");
  tree.file(devices("0000:06:00.0") + "sriov_numvfs", "4\n");
  CHECK(function(tree).virtual_functions == 4);
  const auto virtual_function = function(tree, "0000:06:00.1");
  CHECK(virtual_function.physical_function == bdf("0000:06:00.0"));
  CHECK(!virtual_function.driver);
  CHECK(virtual_function.group_members.size() == 2);
}

TEST_CASE("old kernels have a file to reset by, and no names of methods") {
  const Tree tree;
  add_function(tree, {});
  tree.remove(devices("0000:06:00.0") + "reset_method");
  CHECK(function(tree).reset_methods.empty());
  tree.file(devices("0000:06:00.0") + "reset", "");
  CHECK(function(tree).reset_methods == std::vector<std::string>{"reset"});
}

TEST_CASE("nonsense in sysfs is not taken for anything") {
  const Tree tree;
  add_function(tree, {});
  const auto folder = devices("0000:06:00.0");
  tree.file(folder + "resource", "0x10 0x0 0x1\nx y\n0x-1 0xfffffffffffffffffffff\n\n0x1\n");
  tree.file(folder + "sriov_numvfs", "many");
  tree.file(folder + "boot_vga", "11");
  tree.link(folder + "physfn", "sys/devices/elsewhere");
  tree.link(folder + "iommu_group", "sys/kernel/iommu_groups/-1");
  const auto found = function(tree);
  CHECK(found.bar_size == std::array<std::uint64_t, 6>{});
  CHECK(found.virtual_functions == 0);
  CHECK(!found.boot_vga);
  CHECK(!found.physical_function);
  CHECK(!found.iommu_group);
  tree.file(folder + "vendor", "0x18086\n");
  CHECK(fails_with(read_function(tree.root(), bdf("0000:06:00.0")), Errc::bad_request));
  CHECK(fails_with(read_function(tree.root(), bdf("0000:07:00.0")), Errc::no_such_device));
}

TEST_CASE("a list of capabilities that bites its tail ends") {
  const Tree tree;
  add_function(tree, {});
  auto config = config_with_msix(8, 256);
  config[0x50] = 0x05, config[0x51] = 0x40;
  tree.file(devices("0000:06:00.0") + "config", config);
  CHECK(!function(tree).msix_vectors);
}

TEST_CASE("config space is 64, 256 or 4096 bytes") {
  const Tree tree;
  add_function(tree, {});
  const auto [there, size] = GENERATE(
      table<std::size_t, std::size_t>({{64, 64}, {100, 64}, {256, 256}, {4095, 256}, {4096, 4096}, {5000, 4096}}));
  tree.file(devices("0000:06:00.0") + "config", config_with_msix(8, there));
  const auto config = read_config(tree.root(), bdf("0000:06:00.0"));
  REQUIRE(config);
  CHECK(config->size() == size);
  CHECK(function(tree).msix_vectors.has_value() == (size > 64));
}

TEST_CASE("config space too short for a header is refused") {
  const Tree tree;
  add_function(tree, {});
  tree.file(devices("0000:06:00.0") + "config", std::string(63, '\xff'));
  CHECK(fails_with(read_config(tree.root(), bdf("0000:06:00.0")), Errc::bad_request));
}

TEST_CASE("a function is found by any form that lspci takes, when it is the only one") {
  const Tree tree;
  for (const char* name : {"0000:01:00.0", "0000:06:00.0", "0000:06:00.1", "0001:01:00.0", "10000:02:1f.7"})
    add_function(tree, {.bdf = name});
  const auto find = [&tree](std::string_view text) { return find_function(tree.root(), text); };
  CHECK(find("06:00.0") == bdf("0000:06:00.0"));
  CHECK(find("6:0.0") == bdf("0000:06:00.0"));
  CHECK(find("0000:06:00.1") == bdf("0000:06:00.1"));
  CHECK(find("1:1:") == bdf("0001:01:00.0"));
  CHECK(find("2:") == bdf("10000:02:1f.7"));
  CHECK(find("1f.7") == bdf("10000:02:1f.7"));
  CHECK(find("10000::") == bdf("10000:02:1f.7"));
  CHECK(fails_with(find("01:00.0"), Errc::bad_request)); // in two domains
  CHECK(fails_with(find("6:"), Errc::bad_request));
  CHECK(fails_with(find("07:00.0"), Errc::no_such_device));
  for (const char* text : {"", "06:00.8", "06:20.0", "zz:00.0", "1:2:3:4", "06:00.0 "})
    CHECK(fails_with(find(text), Errc::bad_request));
  CHECK(find("6:").error().context == "6: is not one PCI function but 2: 0000:06:00.0 0000:06:00.1.");
}

TEST_CASE("a pipe, a device or a folder in the place of an attribute says nothing, and is not waited for") {
  const Tree tree;
  add_function(tree, {});
  const auto folder = devices("0000:06:00.0");
  tree.link(folder + "subsystem_vendor", "/dev/zero");
  tree.remove(folder + "subsystem_device");
  tree.folder(folder + "subsystem_device");
  tree.remove(folder + "reset_method");
  for (const char* name : {"reset_method", "config", "boot_vga"})
    REQUIRE(::mkfifo(tree.at(folder + name).c_str(), 0600) == 0);
  const auto found = function(tree);
  CHECK(found.subsystem_vendor == 0);
  CHECK(found.subsystem_device == 0);
  CHECK(found.reset_methods.empty());
  CHECK(!found.msix_vectors);
  CHECK(!read_text(tree.at(folder + "reset_method")));
  CHECK(fails_with(read_config(tree.root(), found.bdf), Errc::bad_request));
}
