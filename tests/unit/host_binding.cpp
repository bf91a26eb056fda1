// Taking and giving back functions: done, refused, failed at every step, crashed at every step, hanging.
#include "host/binding.hpp"

#include "catch.hpp"
#include "checks.hpp"
#include "driver_kernel.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

namespace {

const std::string drive = "0000:06:00.0", second = "0000:07:00.0";
const Bdf drive_bdf = *parse_bdf(drive), second_bdf = *parse_bdf(second);

/// A host with two drives.
struct Host {
  Tree tree;
  DriverKernel kernel{tree};

  explicit Host(const std::string& driver = "nvme") {
    add_function(tree, {.bdf = drive, .driver = driver});
    add_function(tree, {.bdf = second, .driver = "nvme", .group = 15});
    tree.file("proc/sys/kernel/random/boot_id", "boot-1\n");
  }
  Binder open() {
    auto binder = Binder::open(tree.root(), tree.at("state"), kernel.system());
    REQUIRE(binder);
    return std::move(*binder);
  }
  std::string journal() const { return read_text(tree.at("state/journal.json")).value_or(""); }
  bool journal_names(const std::string& bdf) const { return journal().find(bdf) != std::string::npos; }
  bool untouched(const std::string& bdf) const {
    return kernel.driver(bdf) == "nvme" && kernel.driver_override(bdf) == "(null)" && !journal_names(bdf);
  }
  /// From now on the journal cannot be written.
  void fill_disk() const { tree.folder("state/journal.json.new"); }
  void empty_disk() const { tree.remove("state/journal.json.new"); }
};

std::optional<Error> error(int number) { return Error{{number, std::system_category()}, "as told"}; }
std::optional<Error> hang() { return Error{make_error_code(Errc::timed_out), "as told"}; }

} // namespace

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

TEST_CASE("the driver override that was there is put back") {
  Host host;
  host.tree.file(devices(drive) + "driver_override", "nvme\n");
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  CHECK(host.kernel.driver_override(drive) == "vfio-pci");
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.kernel.driver_override(drive) == "nvme");
  CHECK(host.kernel.driver(drive) == "nvme");
}

TEST_CASE("the old driver gets the function back whatever its driver override says, and that is put back afterwards") {
  const std::string before = GENERATE("vfio-pci", "pci-stub", "none", "nvme");
  const auto step =
      GENERATE(from_range(std::vector<std::string_view>{"", "take-override", "take-unbind", "take-probe", "take-done",
                                                        "give-override", "give-unbind", "give-probe", "give-done"}));
  CAPTURE(before, step);
  Host host;
  host.tree.file(devices(drive) + "driver_override", before + '\n'); // nvme stays bound
  const auto there_and_back = [&host] {
    auto binder = host.open();
    return binder.take({drive_bdf}) && binder.give_back({drive_bdf});
  };
  if (step.empty()) {
    CHECK(there_and_back());
  } else {
    const auto child = ::fork();
    if (child == 0) {
      ::setenv("SMARTIO_STOP_AT", std::string(step).c_str(), 1);
      ::_exit(there_and_back() ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WEXITSTATUS(status) == 77);
    CHECK(host.open().recover());
  }
  CHECK(host.kernel.driver(drive) == "nvme");
  CHECK(host.kernel.driver_override(drive) == before);
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

TEST_CASE("a crash at any step is undone at the next start") {
  const auto at = GENERATE(range(std::size_t{0}, binding_steps().size()));
  const std::string step(binding_steps()[at]);
  CAPTURE(step);
  Host host;
  const auto child = ::fork();
  if (child == 0) {
    ::setenv("SMARTIO_STOP_AT", step.c_str(), 1);
    auto binder = Binder::open(host.tree.root(), host.tree.at("state"), host.kernel.system());
    static_cast<void>(binder && binder->take({second_bdf, drive_bdf}) && binder->give_back({drive_bdf, second_bdf}));
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 77);
  CHECK((host.kernel.driver(drive) == "nvme" || host.journal_names(drive)));
  CHECK((host.kernel.driver(second) == "nvme" || host.journal_names(second)));
  const auto report = host.open().recover();
  REQUIRE(report);
  CHECK(!report->empty());
  CHECK(host.untouched(drive));
  CHECK(host.untouched(second));
  CHECK(host.open().recover() == std::vector<std::string>{});
}

TEST_CASE("a driver that does not let go is told of, and its function given back once it has") {
  Host host;
  bool hanging = false;
  host.kernel.fault = [&](const std::string& name, const std::string&) {
    // The link goes at once; then the kernel holds the device's lock until the driver has let go.
    if (name == "driver/unbind") hanging = true, host.kernel.let_go(drive);
    return hanging ? hang() : std::nullopt;
  };
  {
    auto binder = host.open();
    const auto taken = binder.take({drive_bdf});
    CHECK(fails_with(taken, Errc::timed_out));
    CHECK(taken.error().context.find("still being unbound from nvme") != std::string::npos);
    CHECK(fails_with(binder.give_back({drive_bdf}), Errc::timed_out));
    CHECK(!binder.has_taken(drive_bdf));
  }
  auto binder = host.open();
  const auto report = binder.recover();
  REQUIRE(report);
  REQUIRE(report->size() == 1);
  CHECK(report->front().ends_with("It stays in the journal."));
  host.kernel.fault = nullptr;
  CHECK(binder.recover() == std::vector<std::string>{drive + " has nvme again."});
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

TEST_CASE("a function that is gone is forgotten") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.remove("sys/bus/pci/devices/" + drive);
  CHECK(binder.recover() == std::vector<std::string>{drive + " is gone."});
  CHECK(!host.journal_names(drive));
}

TEST_CASE("what somebody else has bound since is left alone") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.file(devices(drive) + "driver_override", "uio_pci_generic\n");
  host.tree.link(devices(drive) + "driver", "sys/bus/pci/drivers/uio_pci_generic");
  host.kernel.written.clear();
  CHECK(binder.recover() == std::vector<std::string>{drive + " has uio_pci_generic; before it was lent it had nvme."});
  CHECK(host.kernel.written.empty());
  CHECK(!host.journal_names(drive));
}

TEST_CASE("a function that somebody else has bound since it was taken is taken anew, and goes back to them") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.file("sys/bus/pci/drivers/uio_pci_generic/bind", "");
  host.tree.link(devices(drive) + "driver", "sys/bus/pci/drivers/uio_pci_generic");
  REQUIRE(binder.take({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "vfio-pci");
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "uio_pci_generic");
}

TEST_CASE("a function that goes at any write of taking it or giving it back is gone, and keeps nothing from the next") {
  const int goes_at = GENERATE(range(0, 6));
  CAPTURE(goes_at);
  Host host;
  int writes = 0;
  host.kernel.fault = [&](const std::string& name, const std::string&) {
    if (name == "read" || writes++ != goes_at) return std::optional<Error>{};
    host.tree.remove("sys/bus/pci/devices/" + drive);
    return error(ENODEV);
  };
  auto binder = host.open();
  if (binder.take({drive_bdf})) CHECK(binder.give_back({drive_bdf}));
  CHECK(writes > goes_at);
  CHECK(!host.journal_names(drive));
  host.kernel.fault = nullptr;
  host.tree.remove("sys/devices/pci0000:00/" + drive);
  add_function(host.tree, {.bdf = drive}); // plugged in again
  REQUIRE(binder.take({drive_bdf}));
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.untouched(drive));
}

TEST_CASE("another function at a remembered address is left alone, and can be taken itself") {
  Host host;
  {
    auto binder = host.open();
    REQUIRE(binder.take({drive_bdf}));
    host.tree.remove("sys/devices/pci0000:00/" + drive);
    add_function(host.tree, {.bdf = drive, .driver = "igb", .class_code = "0x020000", .device = "0x1521"});
    host.kernel.written.clear();
    SECTION("found at the next start") {
      CHECK(host.open().recover() == std::vector<std::string>{drive + " is another device now."});
    }
    SECTION("given back") { CHECK(binder.give_back({drive_bdf})); }
    CHECK(host.kernel.written.empty());
    CHECK(host.kernel.driver(drive) == "igb");
  }
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.kernel.driver(drive) == "igb");
}

TEST_CASE("a function whose ids cannot be read is the one that was taken") {
  Host host;
  auto binder = host.open();
  const auto ids = devices(drive) + "subsystem_device";
  SECTION("when it is given back") {
    REQUIRE(binder.take({drive_bdf}));
    host.tree.remove(ids);
  }
  SECTION("when it is taken") {
    host.tree.remove(ids);
    REQUIRE(binder.take({drive_bdf}));
    host.tree.file(ids, "0x390a\n");
  }
  CHECK(binder.take({drive_bdf})); // it is held
  REQUIRE(binder.give_back({drive_bdf}));
  CHECK(host.untouched(drive));
}

TEST_CASE("whatever is in the journal is given back in the end, also what an earlier attempt left") {
  Host host;
  auto binder = host.open();
  host.kernel.fault = [](const std::string& name, const std::string&) {
    return name.ends_with("/bind") ? error(EBUSY) : std::nullopt;
  };
  CHECK(!binder.take({drive_bdf}));
  CHECK(binder.give_back_all().size() == 1);
  host.kernel.fault = nullptr;
  CHECK(binder.give_back_all().empty());
  CHECK(host.untouched(drive));
  CHECK(binder.give_back_all().empty());
}

TEST_CASE("nothing that gives a function back needs space on the disk") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf, second_bdf}));
  host.fill_disk();
  REQUIRE(binder.give_back({drive_bdf, second_bdf}));
  CHECK(host.untouched(drive));
  CHECK(host.untouched(second));
}

TEST_CASE("a function that cannot be given back keeps no other from it") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf, second_bdf}));
  host.kernel.fault = [](const std::string& name, const std::string& text) {
    return name == "nvme/bind" && text == drive ? error(EBUSY) : std::nullopt;
  };
  CHECK(fails_with(binder.give_back({drive_bdf, second_bdf}), EBUSY));
  CHECK(host.journal_names(drive));
  CHECK(host.untouched(second));
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
