// The thread that looks at this host's devices.
#include "host_devices.hpp"
#include "catch.hpp"
#include "driver_kernel.hpp"
#include "vpd_bytes.hpp"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sys/stat.h>

using namespace smartio;

namespace {

/// How many threads of this process take the signal.
unsigned takers(int signal) {
  unsigned count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("SigBlk:")) count += (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) == 0;
  }
  return count;
}

} // namespace

TEST_CASE("signals of the program are for its own threads") {
  boost::asio::io_context io;
  const auto before = takers(SIGTERM);
  const auto devices = HostDevices::open(io, "", {});
  REQUIRE(devices);
  CHECK(takers(SIGTERM) == before);
}

TEST_CASE("what does not go back to its driver when a node stops is told, and the rest goes back") {
  const testing::Tree tree;
  testing::DriverKernel kernel(tree);
  const std::vector<std::string> functions{"0000:06:00.0", "0000:07:00.0"};
  testing::add_function(tree, {.bdf = functions[0]});
  testing::add_function(tree, {.bdf = functions[1], .group = 15});
  boost::asio::io_context io;
  const auto devices = HostDevices::open(io, tree.at("state"), {}, tree.root(), kernel.system());
  REQUIRE(devices);
  for (const auto& function : functions) {
    std::optional<Result<core::Who>> taken;
    (*devices)->take(*parse_bdf(function), {}, true, {},
                     [&taken](Result<core::Who> result) { taken = std::move(result); });
    io.restart();
    io.run();
    INFO((taken && !*taken ? to_string(taken->error()) : ""));
    REQUIRE((taken && *taken));
  }
  kernel.fault = [&functions](const std::string& file, const std::string& text) {
    return file == "driver/unbind" && text == functions[0]
               ? std::optional(Error{std::make_error_code(std::errc::io_error), "as told"})
               : std::nullopt;
  };
  std::optional<std::vector<Error>> failures;
  (*devices)->give_back_all([&failures](std::vector<Error> told) { failures = std::move(told); });
  io.restart();
  io.run();
  REQUIRE(failures);
  REQUIRE(failures->size() == 1);
  CHECK(to_string(failures->front()).find("as told") != std::string::npos);
  CHECK(kernel.driver(functions[0]) == "vfio-pci");
  CHECK(kernel.driver(functions[1]) == "nvme");
}

namespace {

/// The state of one host's devices, asked and waited for.
struct Asked {
  explicit Asked(const testing::Tree& tree, testing::DriverKernel& kernel)
      : devices(HostDevices::open(io, tree.at("state"), {}, tree.root(), kernel.system()).value()) {}

  void run() {
    io.restart();
    io.run();
  }
  core::Who who(const std::string& function) {
    core::Who who;
    devices->probe(*parse_bdf(function), [&who](Result<core::Identity> identity) { who = identity.value().who; });
    run();
    return who;
  }
  std::map<std::string, core::Who> find() {
    std::map<std::string, core::Who> found;
    devices->find([&found](std::vector<core::Seen> seen) {
      for (auto& [address, who] : seen) found[address] = std::move(who);
    });
    run();
    return found;
  }

  boost::asio::io_context io;
  std::unique_ptr<HostDevices> devices;
};

void set_serial(const testing::Tree& tree, const std::string& function, const std::string& serial,
                const char* state = "live\n") {
  const auto folder = testing::devices(function) + "nvme/nvme" + function.substr(5, 2);
  tree.file(folder + "/serial", serial);
  tree.file(folder + "/state", state);
}

} // namespace

TEST_CASE("a device is known by its ids, its class and its serial numbers") {
  const testing::Tree tree;
  testing::DriverKernel kernel(tree);
  for (const auto* function : {"0000:06:00.0", "0000:07:00.0", "0000:08:00.0", "0000:08:00.1", "0000:08:00.2"})
    testing::add_function(tree, {.bdf = function});
  testing::add_function(tree, {.bdf = "0000:09:00.0", .device = "0xf1a6"});
  std::string config(4096, '\0');
  config.replace(256, 12, std::string("\x03\0\x01\0\x77\x66\x55\x44\x33\x22\x11\x00", 12));
  tree.file(testing::devices("0000:07:00.0") + "config", config);
  set_serial(tree, "0000:06:00.0", "SIX \x01\n");
  set_serial(tree, "0000:08:00.1", "SIX\n");
  set_serial(tree, "0000:09:00.0", "SIX\n");
  Asked host(tree, kernel);
  const auto six = host.who("0000:06:00.0"), seven = host.who("0000:07:00.0");
  CHECK(six.kind == "8086:f1a5, class 010802, subsystem 8086:390a");
  CHECK(six.serials == std::map<std::string, std::string>{{"nvme", "SIX"}});
  CHECK(seven.serials == std::map<std::string, std::string>{{"device", "00-11-22-33-44-55-66-77"}});
  set_serial(tree, "0000:08:00.0", "(efault)\n", "connecting\n"); // as the kernel says before it knows
  CHECK(host.who("0000:08:00.0").serials.empty());
  set_serial(tree, "0000:08:00.2", "SIX\n");
  tree.link(testing::devices("0000:08:00.2") + "physfn", "sys/devices/pci0000:00/0000:08:00.0");
  auto found = host.find();
  CHECK(found.size() == 3); // neither those that are not known yet nor virtual functions
  CHECK(found["0000:06:00.0"] == six);
  CHECK(found["0000:08:00.1"] == six);
  CHECK(found["0000:09:00.0"].kind != six.kind);
}

TEST_CASE("another device than the one that is meant stays with its driver") {
  const testing::Tree tree;
  testing::DriverKernel kernel(tree);
  testing::add_function(tree, {});
  Asked host(tree, kernel);
  std::optional<Result<core::Who>> taken;
  const auto kind = host.who("0000:06:00.0").kind;
  host.devices->take(*parse_bdf("0000:06:00.0"), {kind, {{core::nvme_serial, "SIX"}}}, true, {},
                     [&taken](Result<core::Who> result) { taken = std::move(result); }); // not asked yet
  host.run();
  REQUIRE((taken && !*taken));
  CHECK(kernel.driver("0000:06:00.0") == "nvme");
  host.devices->take(*parse_bdf("0000:06:00.0"), {"8086:f1a6", {}}, true, {},
                     [&taken](Result<core::Who> result) { taken = std::move(result); });
  host.run();
  REQUIRE((taken && !*taken));
  CHECK(taken->error().code == Errc::wrong_state);
  CHECK(taken->error().context.find("8086:f1a6") != std::string::npos);
  CHECK(kernel.driver("0000:06:00.0") == "nvme");
}

TEST_CASE("filters match devices that were added, whether or not this host has them now") {
  const testing::Tree tree;
  testing::DriverKernel kernel(tree);
  testing::add_function(tree, {.bdf = "0000:06:00.0"}); // a disk
  Asked host(tree, kernel);
  const std::vector<core::Added> added{{"vfio-user:/d", 0x1b36, 0x0010, 0x010802},
                                       {"vfio-user:/n", 0x15b3, 0x10c9, 0x020000},
                                       {"0000:07:00.0", 0x1b36, 0x0010, 0x010802},  // pulled out
                                       {"0000:06:00.0", 0x15b3, 0x10c9, 0x020000}}; // another one is there now
  const auto matches = [&](const char* ids, const char* slot) {
    std::optional<Result<HostDevices::Matches>> found;
    host.devices->scan({{ids, slot}}, added, [&found](auto result) { found = std::move(result); });
    host.run();
    REQUIRE((found && *found && (*found)->size() == 1));
    return (*found)->front();
  };
  using Addresses = std::vector<std::string>;
  CHECK(matches("::0108", "") == Addresses{"0000:06:00.0", "vfio-user:/d", "0000:07:00.0"});
  CHECK(matches("15b3:", "") == Addresses{"vfio-user:/n"});
  CHECK(matches("", "7:") == Addresses{"0000:07:00.0"});
  CHECK(matches("", "0.0").size() == 2); // what is behind a socket is in no slot
}

namespace {

std::string config_with_serial() {
  std::string config(4096, '\0');
  config[0x100] = 3, config[0x102] = 1; // Device Serial Number, version 1
  config[0x104] = 1;
  return config;
}

/// Functions with vital product data, probed.
struct Bed {
  testing::Tree tree;
  boost::asio::io_context io;
  std::vector<std::string> answered;
  std::map<std::string, core::Who> who;

  Bed(std::initializer_list<testing::Described> functions) {
    for (const auto& function : functions) {
      testing::add_function(tree, function);
      tree.file(testing::devices(function.bdf) + "vpd", testing::vpd_with(testing::field("SN", "A1")));
    }
  }
  void probe(std::initializer_list<std::string> functions) {
    const auto devices = HostDevices::open(io, "", {}, tree.root());
    REQUIRE(devices);
    for (const auto& function : functions)
      (*devices)->probe(*parse_bdf(function), [this, function](Result<core::Identity> identity) {
        REQUIRE(identity);
        answered.push_back(function);
        who[function] = identity->who;
      });
    io.run();
  }
};

} // namespace

TEST_CASE("vital product data is read where no other number is known, and not while VFIO has the function") {
  const std::string plain = "0000:06:00.0", capable = "0000:07:00.0", controller = "0000:08:00.0",
                    taken = "0000:09:00.0";
  Bed bed{
      {.bdf = plain, .driver = "e1000e"}, {.bdf = capable}, {.bdf = controller}, {.bdf = taken, .driver = "vfio-pci"}};
  bed.tree.file(testing::devices(capable) + "config", config_with_serial());
  bed.tree.file(testing::devices(controller) + "nvme/nvme0/state", "live");
  bed.tree.file(testing::devices(controller) + "nvme/nvme0/serial", "N1");
  bed.probe({plain, capable, controller, taken});
  using Serials = std::map<std::string, std::string>;
  CHECK(bed.who[plain].serials == Serials{{"vpd", "A1"}});
  CHECK(bed.who[capable].serials == Serials{{"device", "00-00-00-00-00-00-00-01"}});
  CHECK(bed.who[controller].serials == Serials{{"nvme", "N1"}});
  CHECK(bed.who[taken].serials.empty());
}

TEST_CASE("vital product data that does not come, or cannot be read, holds up nobody and is none") {
  const std::string hangs = "0000:06:00.0", broken = "0000:07:00.0", without = "0000:08:00.0", other = "0000:09:00.0";
  Bed bed{{.bdf = hangs}, {.bdf = broken}, {.bdf = without}, {.bdf = other}};
  for (const auto& function : {hangs, broken, without}) bed.tree.remove(testing::devices(function) + "vpd");
  REQUIRE(::mkfifo(bed.tree.at(testing::devices(hangs) + "vpd").c_str(), 0600) == 0);
  bed.tree.folder(testing::devices(broken) + "vpd"); // EISDIR in place of EIO
  bed.tree.file(testing::devices(other) + "config", config_with_serial());
  bed.probe({hangs, broken, without, other});
  CHECK(bed.answered == std::vector<std::string>{without, other, hangs, broken});
  CHECK((bed.who[hangs].serials.empty() && bed.who[broken].serials.empty() && bed.who[without].serials.empty()));
}
