// Taking and giving back functions: done, refused, failed at every step, hanging.
#include "binding_host.hpp"

#include <algorithm>
#include <sys/stat.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

TEST_CASE("a function is taken from its driver and given back to it") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "vfio-pci");
  CHECK(binder.has_taken(drive_bdf));
  CHECK(host.journal_names(drive));
  CHECK(host.kernel.written ==
        std::vector<std::string>{"driver_override=vfio-pci", "driver/unbind=" + drive, "vfio-pci/bind=" + drive});
  REQUIRE(binder.take({drive_bdf})); // again
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.untouched(drive));
  CHECK(!binder.has_taken(drive_bdf));
  REQUIRE(binder.give_back({drive_bdf})); // again
}

TEST_CASE("each write is in the journal before it is made, with what there was, and the journal is its owner's alone") {
  Host host;
  host.tree.file(devices(drive) + "driver_override", "nvme\n");
  std::vector<std::string> steps;
  host.kernel.fault = [&](const std::string& name, const std::string&) {
    const auto entry = Journal::open(host.tree.at("state/journal.json"), "boot-1").value().entries().at(drive_bdf);
    steps.push_back(name + " after " + entry.step);
    CHECK(entry.driver == "nvme");
    CHECK(entry.driver_override == "nvme");
    struct stat status {};
    CHECK((::stat(host.tree.at("state/journal.json").c_str(), &status) == 0 && (status.st_mode & 07777) == 0600));
    return std::optional<Error>{};
  };
  auto binder = Binder::open(host.tree.root(), host.tree.at("state"), [&] {
    auto system = host.kernel.system();
    system.read = [](const std::string& path, std::chrono::milliseconds) -> Result<std::string> {
      return read_text(path).value_or("");
    };
    return system;
  }());
  REQUIRE(binder);
  REQUIRE(binder->take({drive_bdf}));
  CHECK(host.journal().find("take-done") != std::string::npos);
  REQUIRE(binder->give_back({drive_bdf}));
  CHECK(steps == std::vector<std::string>{"driver_override after take-override", "driver/unbind after take-unbind",
                                          "vfio-pci/bind after take-probe", "driver_override after give-override",
                                          "driver/unbind after give-unbind", "nvme/bind after give-probe"});
}

TEST_CASE("a function without a driver gets none back") {
  Host host("");
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "vfio-pci");
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.kernel.driver(drive).empty());
  CHECK(!host.journal_names(drive));
}

TEST_CASE("a function on vfio-pci before us is left so") {
  Host host("vfio-pci");
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  CHECK(!host.journal_names(drive));
  CHECK(!binder.has_taken(drive_bdf));
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(binder.recover() == std::vector<std::string>{});
  CHECK(host.kernel.written.empty());
  CHECK(host.kernel.driver(drive) == "vfio-pci");
}

TEST_CASE("a function that came to be used meanwhile is not taken") {
  Host host;
  auto binder = host.open();
  const auto recheck = [](const Bdf& bdf) -> Result<void> {
    if (bdf == second_bdf) return fail(Errc::busy, "It is mounted.");
    return {};
  };
  CHECK(fails_with(binder.take({drive_bdf, second_bdf}, recheck), Errc::busy));
  CHECK(host.untouched(drive));
  CHECK(host.untouched(second));
}

TEST_CASE("the module is loaded when it is not, and its absence is told") {
  Host host;
  host.tree.remove("sys/bus/pci/drivers/vfio-pci");
  auto system = host.kernel.system();
  std::string loaded;
  system.load_module = [&loaded](const char* module) { loaded = module; };
  auto binder = Binder::open(host.tree.root(), host.tree.at("state"), system);
  REQUIRE(binder);
  CHECK(fails_with(binder->take({drive_bdf}), Errc::wrong_state));
  CHECK(loaded == "vfio-pci");
  CHECK(host.untouched(drive));
}

TEST_CASE("there is no binding without a state directory, and none of a device that is not there") {
  Host host;
  CHECK(fails_with(Binder::open(host.tree.root(), "", host.kernel.system()), Errc::bad_request));
  CHECK(fails_with(host.open().take({*parse_bdf("0000:99:00.0")}), Errc::no_such_device));
}

TEST_CASE("whichever write fails, what was taken is given back and the error is told") {
  const std::string file = GENERATE("driver_override", "driver/unbind", "vfio-pci/bind");
  Host host;
  host.kernel.fault = [&](const std::string& name, const std::string& text) {
    const bool of_second = host.kernel.driver(drive) == "vfio-pci";
    return name == file && of_second && text != "" && text != drive ? error(EIO) : std::nullopt;
  };
  auto binder = host.open();
  CHECK(fails_with(binder.take({drive_bdf, second_bdf}), EIO));
  CHECK(host.untouched(drive));
  CHECK(host.untouched(second));
}

TEST_CASE("functions are given back in reverse when one cannot be taken") {
  Host host;
  add_function(host.tree, {.bdf = "0000:08:00.0", .group = 16});
  host.kernel.fault = [](const std::string&, const std::string& text) {
    return text == "0000:08:00.0" ? error(EPERM) : std::nullopt;
  };
  auto binder = host.open();
  CHECK(fails_with(binder.take({drive_bdf, second_bdf, *parse_bdf("0000:08:00.0")}), EPERM));
  const auto& written = host.kernel.written;
  const auto first = std::ranges::find(written, "nvme/bind=" + second),
             last = std::ranges::find(written, "nvme/bind=" + drive);
  REQUIRE(last != written.end());
  CHECK(first < last);
  CHECK(host.untouched(drive));
  CHECK(host.untouched(second));
}

TEST_CASE("a function that no driver takes stays in the journal until one does") {
  Host host;
  host.kernel.fault = [](const std::string& name, const std::string&) {
    return name.ends_with("/bind") ? error(EBUSY) : std::nullopt;
  };
  auto binder = host.open();
  const auto taken = binder.take({drive_bdf});
  CHECK(fails_with(taken, EBUSY));
  CHECK(taken.error().context.find("No driver is left") != std::string::npos);
  CHECK(host.kernel.driver(drive).empty());
  CHECK(host.journal_names(drive));
  CHECK(fails_with(binder.take({drive_bdf}), EBUSY)); // which gives it back first
  CHECK(fails_with(binder.give_back({drive_bdf}), EBUSY));
  CHECK(host.journal_names(drive));
  host.kernel.fault = nullptr;
  auto later = host.open();
  CHECK(later.recover() == std::vector<std::string>{drive + " has nvme again."});
  CHECK(host.untouched(drive));
}

TEST_CASE("what a driver releases late does not fail the next") {
  Host host;
  int refusals = 3;
  host.kernel.fault = [&refusals](const std::string& name, const std::string&) {
    return name == "vfio-pci/bind" && refusals-- > 0 ? error(EBUSY) : std::nullopt;
  };
  REQUIRE(host.open().take({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "vfio-pci");
}

TEST_CASE("a driver whose module is gone is asked for through the probe, and missed") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.remove("sys/bus/pci/drivers/nvme");
  CHECK(fails_with(binder.give_back({drive_bdf}), ENODEV));
  CHECK(host.kernel.written.back() == "drivers_probe=" + drive);
  CHECK(host.journal_names(drive));
}

TEST_CASE("nothing is changed that the journal could not be told of first") {
  Host host;
  auto binder = host.open();
  host.fill_disk();
  CHECK(!binder.take({drive_bdf}));
  CHECK(host.kernel.written.empty());
  host.empty_disk();
  CHECK(host.untouched(drive));
}

TEST_CASE("whenever the journal fails, what is not as it was is in it") {
  const std::string after = GENERATE("driver_override", "driver/unbind", "vfio-pci/bind", "nvme/bind");
  const auto as_found = [](const Host& host) {
    return host.kernel.driver(drive) == "nvme" && host.kernel.driver_override(drive) == "(null)";
  };
  Host host;
  host.kernel.fault = [&](const std::string& name, const std::string&) {
    if (name == after) host.fill_disk();
    return std::optional<Error>{};
  };
  {
    auto binder = host.open();
    if (binder.take({drive_bdf})) CHECK(binder.give_back({drive_bdf}));
    CHECK((as_found(host) || host.journal_names(drive)));
  }
  host.kernel.fault = nullptr;
  host.empty_disk();
  CHECK(host.open().recover());
  CHECK(host.untouched(drive));
}

TEST_CASE("who keeps a function on vfio-pci is named") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.file("sys/class/vfio/14/dev", "1:3\n");
  host.tree.file("proc/99/comm", "qemu\n");
  host.tree.link("proc/99/fd/3", "/dev/null");
  host.kernel.fault = [&host](const std::string& name, const std::string&) {
    if (name == "driver/unbind") host.kernel.let_go(drive);
    return name == "driver_override" || name == "read" ? std::nullopt : hang();
  };
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto given = binder.give_back({drive_bdf});
    CHECK(fails_with(given, Errc::timed_out));
    CHECK(given.error().context.find("held by process 99 (qemu)") != std::string::npos);
  }
  host.kernel.fault = nullptr;
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.untouched(drive));
}

TEST_CASE("a write that fails for a driver that has gone already is no failure") {
  Host host;
  host.kernel.fault = [&host](const std::string& name, const std::string&) {
    if (name != "driver/unbind") return std::optional<Error>{};
    host.kernel.let_go(drive);
    return error(ENODEV);
  };
  CHECK(host.open().take({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "vfio-pci");
}

TEST_CASE("a bind that leaves a function with another driver, or with none, has failed") {
  const std::string instead = GENERATE("", "uio_pci_generic");
  Host host;
  auto system = host.kernel.system();
  auto binder = Binder::open(host.tree.root(), host.tree.at("state"), [&] {
    system.write = [&host, instead, write = system.write](const std::string& path, const std::string& text,
                                                          std::chrono::milliseconds patience) -> Result<void> {
      if (!path.ends_with("vfio-pci/bind")) return write(path, text, patience);
      if (!instead.empty()) host.tree.link(devices(drive) + "driver", "sys/bus/pci/drivers/" + instead);
      return {};
    };
    return system;
  }());
  REQUIRE(binder);
  CHECK(fails_with(binder->take({drive_bdf}), Errc::wrong_state));
  CHECK(!binder->has_taken(drive_bdf));
}

TEST_CASE("the journal of another boot says nothing of this one") {
  Host host;
  REQUIRE(host.open().take({drive_bdf}));
  host.tree.file("proc/sys/kernel/random/boot_id", "boot-2\n");
  host.kernel.written.clear();
  CHECK(host.open().recover() == std::vector<std::string>{});
  CHECK(host.kernel.written.empty());
}

TEST_CASE("a journal that is none is refused") {
  const std::string text = GENERATE(
      R"()", R"({})", R"([])", R"({"schema_version":2,"boot":"boot-1","functions":[]})",
      R"({"schema_version":1,"boot":"boot-1","functions":{}})",
      R"({"schema_version":1,"boot":"boot-1","functions":[1]})", R"({"schema_version":1,"boot":1,"functions":[]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[{"bdf":"06:00.0","driver":null,"driver_override":null,"step":""}]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[{"bdf":"0000:06:00.0","driver":"../x","driver_override":null,"step":""}]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[{"bdf":"0000:06:00.0","driver":"..","driver_override":null,"step":""}]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[{"bdf":"0000:06:00.0","driver":1,"driver_override":null,"step":""}]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[{"bdf":"0000:06:00.0","driver_override":null,"step":""}]})",
      R"({"schema_version":1,"boot":"boot-1","functions":[)");
  CAPTURE(text);
  Host host;
  host.tree.file("state/journal.json", text);
  CHECK(fails_with(Binder::open(host.tree.root(), host.tree.at("state"), host.kernel.system()), Errc::bad_request));
}
