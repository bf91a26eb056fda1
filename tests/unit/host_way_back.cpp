// Functions always find their way back: after a crash at any step, whatever others did meanwhile, gone or replaced.
#include "binding_host.hpp"

#include <algorithm>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

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
    if (step == "take-override" || step == "give-done") CHECK(host.kernel.written.empty()); // all is as it was
  }
  CHECK(host.kernel.driver(drive) == "nvme");
  CHECK(host.kernel.driver_override(drive) == before);
  CHECK(!host.journal_names(drive));
}

TEST_CASE("a driver override that somebody else writes while a function is lent keeps its old driver from nothing") {
  const std::string before = GENERATE("(null)", "nvme", "pci-stub", "vfio-pci");
  const std::string meanwhile = GENERATE("(null)", "nonsense", "pci-stub", "a/b c", "nvme");
  const std::string driver = GENERATE("nvme", "");
  const bool recovers = GENERATE(false, true);
  CAPTURE(before, meanwhile, driver, recovers);
  Host host(driver);
  host.tree.file(devices(drive) + "driver_override", before + '\n');
  {
    auto binder = host.open();
    REQUIRE(binder.take({drive_bdf}));
    host.tree.file(devices(drive) + "driver_override", meanwhile + '\n');
    if (!recovers) CHECK(binder.give_back({drive_bdf}));
  }
  if (recovers) CHECK(host.open().recover());
  CHECK(host.kernel.driver(drive) == driver);
  CHECK(host.kernel.driver_override(drive) == before);
  CHECK(!host.journal_names(drive));
}

TEST_CASE("a driver override that no driver could have as its name is put back, also after a crash") {
  const std::string before = GENERATE("a/b", "..", ".", "no driver");
  CAPTURE(before);
  Host host;
  host.tree.file(devices(drive) + "driver_override", before + '\n');
  REQUIRE(host.open().take({drive_bdf}));
  CHECK(host.open().recover());
  CHECK(host.kernel.driver(drive) == "nvme");
  CHECK(host.kernel.driver_override(drive) == before);
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

TEST_CASE("what is said of drivers is one line, whatever they are named") {
  Host host;
  auto binder = host.open();
  REQUIRE(binder.take({drive_bdf}));
  host.tree.link(devices(drive) + "driver", "sys/bus/pci/drivers/a\nb");
  const auto report = host.open().recover();
  REQUIRE(report);
  CHECK(*report == std::vector<std::string>{drive + " has a?b; before it was lent it had nvme."});
  host.kernel.fault = [](const std::string& name, const std::string&) {
    return name == "driver/unbind" ? hang() : std::nullopt;
  };
  const auto held = host.open().take({drive_bdf});
  REQUIRE(!held);
  CHECK(held.error().context.find("being unbound from a?b") != std::string::npos);
  CHECK(held.error().context.find('\n') == std::string::npos);
}
