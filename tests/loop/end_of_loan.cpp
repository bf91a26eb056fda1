// What a lent device is asked, and its borrower is told, when its use ends: each step, in order, whatever ended it and
// whichever step fails.
#include "catch.hpp"
#include "lent_device.hpp"
#include "noting_device.hpp"
#include "vfio_user_raw.hpp"

using namespace smartio;
using namespace smartio::test;
using namespace std::chrono_literals;

namespace {

constexpr DeviceId id{0x80000};
constexpr core::LoanId loan{id, 1}, next_loan{id, 2};
constexpr std::uint64_t page = 4096;

/// A lent device and its client, which has made use of it in every way; and another device that reaches its registers.
struct Ending {
  struct Client {
    std::shared_ptr<vfio::Device> device; ///< none: it waits
    std::function<void()> gone;
  };
  boost::asio::io_context io;
  std::shared_ptr<Log> log = std::make_shared<Log>(), others = std::make_shared<Log>();
  std::shared_ptr<NotingDevice> device = std::make_shared<NotingDevice>(log),
                                other = std::make_shared<NotingDevice>(others);
  std::shared_ptr<RegisterWindows> peers = std::make_shared<RegisterWindows>();
  std::shared_ptr<LentDevice> lent;
  std::shared_ptr<Client> client;
  std::optional<core::LoanId> releases = loan; ///< whose end the borrower answers at once
  bool opens = true;
  std::move_only_function<void()> report_error; ///< the device reports one
  bool revives = false;                         ///< a lost device is there again once it was closed
  std::optional<Error> verdict;                 ///< of the latest end

  Ending() {
    LentDevice::open(
        io, id, source(), peers, [this](core::Event event) { told(event); },
        [this](auto opened) { lent = std::move(opened).value(); });
    run();
    REQUIRE(lent);
    client = attach(loan);
    use();
    log->clear();
  }
  ~Ending() {
    for (const auto& all : {device, other}) all->lose();
    lent->close();
    run();
  }

  DeviceSource source() {
    return {[this](DeviceSource::Opened opened) {
              note("open");
              if (!opens) return opened(std::unexpected(Error{make_error_code(Errc::peer_down), "it is gone"}));
              OpenedDevice open;
              open.device = device;
              open.on_error = [this](std::move_only_function<void()> then) { report_error = std::move(then); };
              open.close = [this](std::move_only_function<void()> closed) {
                note("close");
                if (revives) device->revive();
                closed();
              };
              opened(std::move(open));
            },
            "it is lost",
            {}};
  }
  void told(core::Event& event) {
    if (const auto* tell = std::get_if<core::TellClients>(&event)) {
      note("tell clients");
      if (releases) lent->clients_released(*releases);
      CHECK(tell->loan == loan);
    }
    if (std::holds_alternative<core::DeviceLost>(event)) note("lost");
    if (auto* ended = std::get_if<core::LoanEnded>(&event)) over("loan ended", ended->loan, ended->error);
    if (auto* ended = std::get_if<core::UseEnded>(&event)) over("use ended", ended->loan, ended->error);
  }
  void over(const char* what, core::LoanId which, const std::optional<Error>& error) {
    CHECK(which == loan);
    note(what);
    verdict = error;
  }
  /// After each step the client tries what it should not: were it to reach the device, it would stand in the log.
  void note(const char* what) {
    log->push_back(what);
    if (!client || !client->device) return;
    client->device->submit(vfio::RegionWrite{0, 0, std::vector<std::byte>(4)}, [](const vfio::Reply&) {});
    client->device->submit(vfio::SetIrqs{vfio::irq_data_none | vfio::irq_action_trigger, vfio::msix, 0, 0, {}, {}},
                           [](const vfio::Reply&) {});
  }

  std::shared_ptr<Client> attach(core::LoanId which, bool shared = false) {
    const auto made = std::make_shared<Client>();
    lent->attach(which, shared, [this, made](std::shared_ptr<vfio::Device> served, std::function<void()> gone) {
      log->push_back("served");
      *made = {std::move(served), std::move(gone)};
      return [this] { log->push_back("disconnect"); };
    });
    run();
    return made;
  }
  vfio::Reply ask(vfio::Request request) {
    std::optional<vfio::Reply> reply;
    client->device->submit(std::move(request), [&reply](vfio::Reply answer) { reply = std::move(answer); });
    REQUIRE(reply);
    return std::move(*reply);
  }
  void use() {
    REQUIRE(ask(vfio::RegionWrite{vfio::config_region, 4, {std::byte{7}, std::byte{}}}));
    REQUIRE(ask(vfio::DmaMap{Iova{page}, page, Access::read_write, make_memfd("memory", page).value(), 0}));
    vfio::SetIrqs irqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, 1, {}, {}};
    irqs.eventfds.push_back(make_eventfd().value());
    REQUIRE(ask(std::move(irqs)));
    const auto registers = std::get<vfio::RegionInfo>(ask(vfio::GetRegionInfo{0}).value());
    vfio::DmaMap map{Iova{0}, page, Access::read_write, registers.fd.duplicate().value(), page};
    REQUIRE(peers->mapping(other, map, std::make_shared<RegisterWindows::Windows>()));
    other->submit(std::move(map), [](const vfio::Reply& reply) { REQUIRE(reply.has_value()); });
  }
  void run() { settle(io); }
  bool over() const { return !log->empty() && (log->back() == "loan ended" || log->back() == "use ended"); }
  Log ended() { ///< what happened once it is over
    run_until(io, [this] { return over(); });
    return *log;
  }
  /// Those of the other device, as its clients have them.
  Fd registers_of_other() {
    auto registers = make_memfd("registers", page).value();
    peers->exported(other.get(), 0, registers);
    return registers;
  }
  bool withdraw_other() {
    bool done = false;
    peers->withdraw(other.get(), [&done] { done = true; });
    return done;
  }
  bool registers_reached() const { return std::ranges::find(*others, "unmap 0") == others->end(); }
};

Log whole(bool told, const char* over) {
  Log all{"command 3", "interrupts off 2", "unmap all", "tell clients", "disconnect", "reset", "close", "open", over};
  if (!told) std::erase(all, "tell clients");
  return all;
}

} // namespace

TEST_CASE(
    "a loan's end stops the device, takes its windows, tells the borrower, withdraws, resets and reopens, in this "
    "order") {
  Ending ending;
  ending.lent->end(loan, true);
  CHECK(ending.ended() == whole(true, "loan ended"));
  CHECK_FALSE(ending.verdict.has_value());
  CHECK_FALSE(ending.registers_reached());
  CHECK(ending.device->config[4] == std::byte{3}); // only bus mastering is off
}

TEST_CASE("a use ends as a loan does, but for the borrower that keeps it: whoever ended it") {
  Ending ending;
  SECTION("its client left") { ending.client->gone(); }
  SECTION("its loan's next client came") { ending.attach(loan); }
  SECTION("another loan's client came") { ending.attach(next_loan); }
  SECTION("its client left, and said so twice") {
    ending.client->gone();
    ending.client->gone();
  }
  ending.run();
  auto expected = whole(false, "use ended");
  if (ending.log->back() == "served") expected.emplace_back("served"); // only now
  CHECK(*ending.log == expected);
  CHECK_FALSE(ending.verdict.has_value());
  CHECK_FALSE(ending.registers_reached());
}

TEST_CASE("registers that others reach are withdrawn after the borrower was told, and before the reset") {
  Ending ending;
  const auto step = GENERATE("tell clients", "reset");
  ending.device->silent = step;
  if (ending.device->silent == "tell clients") ending.releases.reset();
  ending.lent->end(loan, true);
  ending.run();
  REQUIRE(ending.log->back() == step);
  CHECK(ending.registers_reached() == (ending.device->silent == "tell clients"));
}

TEST_CASE("whichever step of an end is refused, the others are done, and what keeps a device from being lent is told") {
  const auto [refused, counts] = GENERATE(table<std::string, bool>(
      {{"command 3", false}, {"interrupts off 2", false}, {"unmap all", false}, {"reset", true}, {"open", true}}));
  const bool kept = GENERATE(false, true);
  INFO(refused << (kept ? " of a use" : " of a loan"));
  Ending ending;
  ending.device->failing = refused;
  ending.opens = refused != "open";
  if (kept)
    ending.client->gone();
  else
    ending.lent->end(loan, true);
  CHECK(ending.ended() == whole(!kept, kept ? "use ended" : "loan ended"));
  CHECK(ending.verdict.has_value() == counts);
  if (refused == "reset") CHECK(to_string(ending.verdict.value()).find("reset the device") != std::string::npos);
  if (refused == "open") CHECK(ending.verdict.value().code == Errc::peer_down);
  CHECK_FALSE(ending.registers_reached());
}

TEST_CASE("a client hears that its memory is unmapped when the device has done so, and never when it refused") {
  Ending ending;
  const bool refused = GENERATE(false, true);
  ending.device->failing = refused ? "unmap all" : "";
  ending.device->silent = "interrupts off 2";
  ending.lent->end(loan, true);
  ending.run();
  REQUIRE(ending.log->back() == "interrupts off 2");
  std::optional<vfio::Reply> answer;
  ending.client->device->submit(vfio::DmaUnmap{Iova{page}, page},
                                [&answer](vfio::Reply reply) { answer = std::move(reply); });
  ending.run();
  CHECK_FALSE(answer.has_value());
  ending.device->answer_held();
  ending.ended();
  CHECK((answer && answer->has_value()) == !refused);
}

TEST_CASE("a device that answers no more holds the end, with nobody told, until it is lost; then the rest is done") {
  Ending ending;
  const auto step = GENERATE("command 3", "interrupts off 2", "unmap all");
  const bool comes_back = GENERATE(false, true);
  ending.device->silent = step;
  ending.opens = ending.revives = comes_back;
  ending.lent->end(loan, true);
  ending.run();
  CHECK(ending.log->back() == step);
  bool unmapped = false;
  ending.client->device->submit(vfio::DmaUnmap{Iova{page}, page},
                                [&unmapped](const vfio::Reply& reply) { unmapped = reply.has_value(); });
  ending.device->lose();
  CHECK(ending.log->back() == "lost");
  ending.ended();
  const Log rest{"lost", "tell clients", "disconnect", "close", "open", "loan ended"};
  CHECK(Log(std::ranges::find(*ending.log, "lost"), ending.log->end()) == rest);
  CHECK(ending.verdict.has_value() != comes_back); // a lost device need not have been reset
  CHECK_FALSE(unmapped);
}

TEST_CASE("a borrower that never lets go is waited for half a second, and no longer") {
  Ending ending;
  ending.releases = GENERATE(std::optional<core::LoanId>{}, std::optional(next_loan)); // that was not asked for
  const auto start = std::chrono::steady_clock::now();
  ending.lent->end(loan, true);
  CHECK(ending.ended() == whole(true, "loan ended"));
  const auto time = std::chrono::steady_clock::now() - start;
  CHECK(time >= client_patience);
  CHECK(time < client_patience + 10s);
}

TEST_CASE("one share of several ends without a step that others would notice") {
  Ending ending;
  ending.lent->end(loan, true);
  ending.ended();
  const auto one = ending.attach(loan, true), other = ending.attach(next_loan, true);
  ending.client = one;
  const auto registers = ending.registers_of_other();
  REQUIRE(ending.ask(vfio::DmaMap{Iova{2 * page}, page, Access::read, registers.duplicate().value(), 0}));
  REQUIRE(ending.ask(vfio::DmaMap{Iova{8 * page}, page, Access::read, make_memfd("memory", page).value(), 0}));
  ending.log->clear();
  ending.verdict.reset();
  SECTION("") { ending.device->failing = ""; }
  SECTION("and tells when a window stays") { ending.device->failing = "unmap 8192"; }
  ending.lent->end(loan, false);
  CHECK(ending.ended() == Log{"unmap 8192", "unmap 32768", "tell clients", "disconnect", "loan ended"});
  CHECK(ending.verdict.has_value() == !ending.device->failing.empty());
  ending.device->failing.clear();
  ending.log->clear();
  CHECK(ending.withdraw_other());
  CHECK(*ending.log == (ending.verdict ? Log{"unmap 8192"} : Log{})); // what is unmapped is not unmapped again
}

TEST_CASE("a device that is closed while it is lent serves nobody, is reached by no other, and is asked no more") {
  Ending ending;
  const auto registers = ending.registers_of_other();
  REQUIRE(ending.peers->mapping(ending.device, {Iova{2 * page}, page, Access::read, registers.duplicate().value(), 0},
                                std::make_shared<RegisterWindows::Windows>()));
  ending.client.reset();
  bool closed = false;
  ending.lent->close([&closed] { closed = true; });
  ending.run();
  CHECK(closed);
  CHECK(*ending.log == Log{"disconnect", "close"});
  CHECK_FALSE(ending.registers_reached());
  ending.log->clear();
  CHECK(ending.withdraw_other());
  CHECK(ending.log->empty());
}

namespace {

/// A source of which each opening is the test's.
struct Source {
  boost::asio::io_context io;
  std::function<Result<std::shared_ptr<NotingDevice>>()> next;
  bool comes_back = false;
  unsigned lost = 0, ended = 0;
  std::optional<Result<std::shared_ptr<LentDevice>>> opened;

  ~Source() {
    if (opened && *opened) (*opened).value()->close();
    settle(io);
  }
  void open() {
    DeviceSource source{[this](DeviceSource::Opened told) {
                          auto device = next();
                          if (!device) return told(std::unexpected(device.error()));
                          OpenedDevice open;
                          open.device = *device;
                          open.close = [](std::move_only_function<void()> closed) { closed(); };
                          told(std::move(open));
                        },
                        "it is lost",
                        {},
                        comes_back};
    LentDevice::open(
        io, id, std::move(source), std::make_shared<RegisterWindows>(),
        [this](const core::Event& event) {
          lost += std::holds_alternative<core::DeviceLost>(event);
          ended += std::holds_alternative<core::LoanEnded>(event);
          if (std::holds_alternative<core::TellClients>(event)) (*opened).value()->clients_released(loan);
        },
        [this](auto result) { opened.emplace(std::move(result)); });
    run_until(io, [this] { return opened.has_value(); });
  }
};

} // namespace

TEST_CASE("the loss of a device that was open before is not that of the one that is open now") {
  Source source;
  std::vector<std::shared_ptr<NotingDevice>> devices;
  source.next = [&devices] { return devices.emplace_back(std::make_shared<NotingDevice>(std::make_shared<Log>())); };
  source.open();
  const auto lent = source.opened->value();
  lent->attach(loan, false, [](const auto&, const auto&) { return [] {}; });
  lent->end(loan, true);
  run_until(source.io, [&source] { return source.ended == 1; });
  REQUIRE(devices.size() == 2);
  devices[0]->lose();
  CHECK(source.lost == 0);
  devices[1]->lose();
  CHECK(source.lost == 1);
}

TEST_CASE("a device's server that just starts again is waited for, where servers come back") {
  Source source;
  source.comes_back = GENERATE(false, true);
  unsigned tries = 0;
  source.next = [&tries]() -> Result<std::shared_ptr<NotingDevice>> {
    if (++tries < 3) return std::unexpected(Error{make_error_code(Errc::peer_down), "it is gone"});
    return std::make_shared<NotingDevice>(std::make_shared<Log>());
  };
  source.open();
  CHECK(source.opened->has_value() == source.comes_back);
  CHECK(tries == (source.comes_back ? 3 : 1));
}

TEST_CASE("a client that waits for its turn is not let in once its loan has ended") {
  Ending ending;
  ending.device->silent = "unmap all";
  ending.client->gone();
  ending.run();
  const auto waiting = ending.attach(loan);
  CHECK_FALSE(waiting->device);
  ending.lent->end(loan, true);
  ending.device->silent = "";
  ending.device->answer_held();
  run_until(ending.io, [&] { return ending.log->back() == "loan ended"; });
  ending.run();
  CHECK_FALSE(waiting->device);
  CHECK(ending.attach(next_loan)->device); // others are
}

TEST_CASE("an error that the device reports ends its loan as its loss does, and it is reset all the same") {
  Ending ending;
  REQUIRE(ending.report_error);
  ending.report_error();
  CHECK(ending.log->front() == "lost");
  ending.lent->end(loan, true);
  ending.run();
  CHECK(std::ranges::find(*ending.log, "reset") != ending.log->end());
  CHECK(ending.log->back() == "loan ended");
}

TEST_CASE("a device whose reset does not work is not lent where only a reset clears it, and is closed again") {
  const bool needs_reset = GENERATE(false, true), can_reset = GENERATE(false, true);
  boost::asio::io_context io;
  const auto log = std::make_shared<Log>();
  const auto device = std::make_shared<NotingDevice>(log);
  device->can_reset = can_reset;
  DeviceSource source{[&](DeviceSource::Opened opened) {
                        OpenedDevice open;
                        open.device = device;
                        if (needs_reset) open.needs_reset = "it leaks";
                        open.close = [log](std::move_only_function<void()> closed) {
                          log->push_back("close");
                          closed();
                        };
                        opened(std::move(open));
                      },
                      "",
                      {}};
  std::optional<Result<std::shared_ptr<LentDevice>>> opened;
  LentDevice::open(
      io, id, std::move(source), std::make_shared<RegisterWindows>(), [](const core::Event&) {},
      [&opened](auto result) { opened.emplace(std::move(result)); });
  settle(io);
  REQUIRE(opened.has_value());
  CHECK(opened->has_value() == (can_reset || !needs_reset));
  if (*opened) return;
  CHECK(opened->error().code == Errc::not_permitted);
  CHECK(*log == Log{"close"});
}
