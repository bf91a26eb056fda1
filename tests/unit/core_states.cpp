// An own device's states: what each command does in each of them, and what is lent.
#include "core_crossroads.hpp"

#include "catch.hpp"

#include <functional>

using namespace smartio;
using namespace smartio::core;
using namespace smartio::core::test;

namespace {

const Error stuck{make_error_code(Errc::timed_out), "it does not answer"};

/// A phase of the life of device 80000, and what is answered or done at once to each command: "" means that the answer
/// is still to come. `lent`: whether node 5 gets it.
struct Phase {
  const char* name;
  std::function<void(Crossroads&)> reach;
  const char *available, *force, *unavailable, *remove, *add;
  bool lent = false;
};

void unavailable(Crossroads& node) {
  node.command("unavailable", {{"device", "80000"}});
  node.on(DeviceClosed{node.first, std::nullopt, "nvme"});
}
void ending(Crossroads& node) { node.receive(four, ReturnRequest{1, node.first, node.lend(four, node.first)}); }
void quarantined(Crossroads& node) {
  ending(node);
  node.on(LoanEnded{{node.first, 1}, stuck});
}

const std::vector<Phase> phases{
    {.name = "being probed again",
     .reach =
         [](Crossroads& node) {
           unavailable(node);
           node.add("0000:01:00.0");
           node.on(DeviceVanished{"vfio-user:/0", "gone"});
           node.on(DeviceAppeared{"vfio-user:/0"});
         },
     .available = "reply busy",
     .force = "reply busy",
     .unavailable = "reply busy",
     .remove = "reply busy",
     .add = ""},
    {.name = "unavailable",
     .reach = unavailable,
     .available = "open 80000",
     .force = "open 80000 by force",
     .unavailable = "reply ok",
     .remove = "reply ok",
     .add = "reply ok"},
    {.name = "being opened",
     .reach =
         [](Crossroads& node) {
           unavailable(node);
           node.command("available", {{"device", "80000"}});
         },
     .available = "",
     .force = "",
     .unavailable = "reply busy",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "available",
     .reach = [](Crossroads&) {},
     .available = "reply ok",
     .force = "reply ok",
     .unavailable = "close 80000",
     .remove = "reply wrong_state",
     .add = "reply ok",
     .lent = true},
    {.name = "lent",
     .reach = [](Crossroads& node) { node.lend(four, node.first); },
     .available = "reply ok",
     .force = "reply ok",
     .unavailable = "end 80000/1 last",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "returned, and being cleaned up",
     .reach = ending,
     .available = "reply ok",
     .force = "reply ok",
     .unavailable = "",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "being taken back, to be unavailable",
     .reach =
         [](Crossroads& node) {
           node.lend(four, node.first);
           node.command("unavailable", {{"device", "80000"}});
         },
     .available = "reply busy",
     .force = "reply busy",
     .unavailable = "",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "being closed",
     .reach =
         [](Crossroads& node) {
           node.command("unavailable", {{"device", "80000"}});
         },
     .available = "reply busy",
     .force = "reply busy",
     .unavailable = "",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "quarantined",
     .reach = quarantined,
     .available = "reply wrong_state",
     .force = "close 80000",
     .unavailable = "close 80000",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "quarantined, and its last loan still ending",
     .reach =
         [](Crossroads& node) {
           node.lend(four, node.first);
           node.on(DeviceLost{node.first, "its server went away"});
         },
     .available = "reply wrong_state",
     .force = "reply busy",
     .unavailable = "",
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "out of quarantine by force, being closed for it",
     .reach =
         [](Crossroads& node) {
           quarantined(node);
           node.command("available", {{"device", "80000"}, {"force", true}});
         },
     .available = "reply busy",
     .force = "reply busy",
     .unavailable = "reply revoked", // of who wanted it by force
     .remove = "reply wrong_state",
     .add = "reply ok"},
    {.name = "out of quarantine by force, being opened again",
     .reach =
         [](Crossroads& node) {
           quarantined(node);
           node.command("available", {{"device", "80000"}, {"force", true}});
           node.on(DeviceClosed{node.first, std::nullopt, ""});
         },
     .available = "",
     .force = "",
     .unavailable = "reply busy",
     .remove = "reply wrong_state",
     .add = "reply ok"},
};

} // namespace

TEST_CASE("each command in each state of a device") {
  for (const auto& phase : phases) {
    const auto does = [&phase](const char* command, Json arguments, const char* expected) {
      Crossroads node;
      phase.reach(node);
      node.command(command, std::move(arguments));
      INFO(phase.name << ": " << command);
      CHECK(node.done() == expected);
    };
    does("available", {{"device", "80000"}}, phase.available);
    does("available", {{"device", "80000"}, {"force", true}}, phase.force);
    does("unavailable", {{"device", "80000"}}, phase.unavailable);
    does("remove", {{"device", "80000"}}, phase.remove);
    does("add", {{"device", "vfio-user:/0"}}, phase.add);
  }
}

TEST_CASE("only an available device is lent, alone or shared") {
  for (const auto& phase : phases)
    for (const bool shared : {false, true}) {
      Crossroads node;
      phase.reach(node);
      INFO(phase.name << (shared ? ", shared" : ""));
      CHECK((node.lend(five, node.first, shared) != 0) == phase.lent);
    }
}

TEST_CASE("in every state the one who was promised an answer gets exactly one when the device has settled") {
  for (const auto& phase : phases) {
    Crossroads node;
    phase.reach(node);
    node.command("unavailable", {{"device", "80000"}});
    std::size_t replies = node.find<Reply>() != nullptr ? 1 : 0;
    if (replies != 0) continue;
    const auto settle = [&node, &replies](const Event& event) {
      node.on(event);
      for (const auto& effect : node.effects) replies += std::holds_alternative<Reply>(effect);
    };
    settle(LoanEnded{{node.first, 1}, std::nullopt});
    settle(DeviceClosed{node.first, std::nullopt, "nvme"});
    settle(DeviceClosed{node.first, std::nullopt, "nvme"});
    INFO(phase.name);
    CHECK(replies >= 1);
    CHECK(node.state(node.first) == "unavailable");
  }
}

TEST_CASE("a device that cannot be reset, closed or opened is lent to nobody, whoever finds it out") {
  for (const Event& failure :
       std::vector<Event>{LoanEnded{{DeviceId{0x80000}, 1}, stuck}, UseEnded{{DeviceId{0x80000}, 1}, stuck},
                          DeviceLost{DeviceId{0x80000}, "its server went away"}}) {
    Crossroads node;
    node.lend(four, node.first);
    node.on(failure);
    CAPTURE(failure.index());
    CHECK(node.state(node.first) == "quarantined");
    CHECK(node.lend(five, node.first) == 0);
    CHECK_FALSE(node.node.admits({node.first, 1}, four));
    const bool ended = std::holds_alternative<LoanEnded>(failure);
    CHECK(node.state(node.second) == "available"); // and that one only
    if (!ended) node.on(LoanEnded{{node.first, 1}, std::nullopt});
    CHECK(node.state(node.first) == "quarantined"); // a clean end later does not heal it
    CHECK(node.lend(four, node.first) == 0);
    node.command("available", {{"device", "80000"}});
    CHECK(node.done() == "reply wrong_state");
    node.command("available", {{"device", "80000"}, {"force", true}});
    node.on(DeviceClosed{node.first, std::nullopt, ""});
    CHECK(node.done() == "open 80000 by force");
    CHECK(node.lend(five, node.first) == 0);
    node.on(DeviceOpened{node.first, Crossroads::disk()});
    CHECK(node.done() == "reply ok");
    CHECK(node.lend(five, node.first) != 0);
  }
}

TEST_CASE("a device that fails while it is being closed becomes what its close says") {
  Crossroads node;
  node.command("unavailable", {{"device", "80000"}});
  node.on(DeviceLost{node.first, "its server went away"});
  CHECK(node.done().empty());
  CHECK(node.state(node.first) == "available");
  node.on(DeviceClosed{node.first, std::nullopt, "nvme"});
  CHECK(node.done() == "reply ok");
  CHECK(node.state(node.first) == "unavailable");
}

TEST_CASE("a client that leaves a kept loan in order changes nothing") {
  Crossroads node;
  const auto epoch = node.lend(four, node.first);
  const auto before = node.node.status_document();
  node.on(UseEnded{{node.first, epoch}, std::nullopt});
  CHECK(node.effects.empty());
  CHECK(node.node.status_document() == before);
  CHECK(node.node.admits({node.first, epoch}, four));
}

TEST_CASE("force that fails leaves the device in quarantine, and says why") {
  Crossroads node;
  quarantined(node);
  node.command("available", {{"device", "80000"}, {"force", true}});
  node.on(DeviceClosed{node.first, stuck, "vfio-pci"});
  CHECK(node.done() == "reply timed_out");
  CHECK(node.state(node.first) == "quarantined");
  node.command("available", {{"device", "80000"}, {"force", true}});
  node.on(DeviceClosed{node.first, std::nullopt, ""});
  node.on(DeviceOpened{node.first, std::unexpected(stuck)});
  CHECK(node.done() == "reply timed_out");
  CHECK(node.state(node.first) == "quarantined");
  CHECK(node.lend(four, node.first) == 0);
}

TEST_CASE("a device that is to be unavailable stays that, though its server comes back before its loan has ended") {
  Crossroads node;
  const auto epoch = node.lend(four, node.first);
  node.on(DeviceLost{node.first, "its server went away"});
  node.command("unavailable", {{"device", "80000"}});
  node.on(DeviceAppeared{"vfio-user:/0"});
  node.on(LoanEnded{{node.first, epoch}, stuck});
  CHECK(node.done().starts_with("close 80000"));
  node.on(DeviceClosed{node.first, std::nullopt, ""});
  CHECK(node.done() == "reply ok");
  CHECK(node.state(node.first) == "unavailable");
}

TEST_CASE("a device whose server is back is opened again once its loan has ended, however it ended") {
  for (const auto& error : {std::optional<Error>{}, std::optional(stuck)}) {
    Crossroads node;
    const auto epoch = node.lend(four, node.first);
    node.on(DeviceLost{node.first, "its server went away"});
    node.on(DeviceAppeared{"vfio-user:/0"});
    CHECK(node.done().empty());
    node.on(LoanEnded{{node.first, epoch}, error});
    CHECK(node.done().starts_with("close 80000"));
    node.on(LoanEnded{{node.first, epoch}, error});
    CHECK(node.done().empty()); // it is being closed already
    node.on(DeviceClosed{node.first, std::nullopt, ""});
    CHECK(node.done() == "open 80000 by force");
    node.on(DeviceOpened{node.first, Crossroads::disk()});
    CHECK(node.lend(five, node.first) != 0);
  }
}

TEST_CASE("out of quarantine by force a device goes without a reset if its owner says so then, or did before") {
  Crossroads node;
  quarantined(node);
  bool before = false;
  for (const bool said : {false, true, false}) {
    node.command("available", {{"device", "80000"}, {"force", true}, {"without_reset", said}});
    node.on(DeviceClosed{node.first, std::nullopt, ""});
    REQUIRE(node.done() == "open 80000 by force");
    CHECK(node.find<OpenDevice>()->without_reset == (said || before));
    before = before || said;
    node.on(DeviceOpened{node.first, std::unexpected(stuck)});
  }
}

TEST_CASE("of attempts at a server that all fail alike, the first is told") {
  Crossroads node;
  quarantined(node);
  for (const bool first : {true, false, false}) {
    node.on(DeviceAppeared{"vfio-user:/0"});
    node.on(DeviceClosed{node.first, std::nullopt, ""});
    node.on(DeviceOpened{node.first, std::unexpected(Error{make_error_code(Errc::peer_down), "nobody listens"})});
    CHECK((node.find<Log>() != nullptr) == first);
  }
  node.command("unavailable", {{"device", "80000"}});
  node.on(DeviceClosed{node.first, std::nullopt, ""});
  for (const bool first : {true, false, false}) {
    node.on(DeviceAppeared{"vfio-user:/0"});
    node.on(DeviceProbed{node.first, std::unexpected(stuck)});
    CHECK((node.find<Log>() != nullptr) == first);
  }
}

TEST_CASE("another node's device is its own to add, remove and offer") {
  Crossroads node;
  const auto before = node.picture();
  for (const char* command : {"available", "unavailable", "remove"}) {
    node.command(command, {{"device", "60000"}});
    CHECK(node.done() == "reply not_permitted");
    node.command(command, {{"device", "60077"}});
    CHECK(node.done() == "reply no_such_device");
    node.command(command, {{"device", "80077"}});
    CHECK(node.done() == "reply no_such_device");
  }
  CHECK(node.picture() == before);
}
