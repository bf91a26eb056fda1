// What the lender keeps from a client of its device: pages, registers of configuration space, resets; and, once the
// client's use is over, everything.
#include "catch.hpp"
#include "client_device.hpp"
#include "noting_device.hpp"

#include <linux/pci_regs.h>
#include <optional>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::test;

namespace {

constexpr std::uint64_t page = 4096;

struct Lending {
  std::shared_ptr<Log> log = std::make_shared<Log>();
  std::shared_ptr<NotingDevice> device = std::make_shared<NotingDevice>(log);
  std::shared_ptr<RegisterWindows> peers = std::make_shared<RegisterWindows>();
  Description description{.identity = {}, .config = std::vector<std::byte>(256)};

  std::shared_ptr<ClientDevice> share(std::optional<unsigned> slice = {}, bool filters_config = false) const {
    return std::make_shared<ClientDevice>(device, description, slice, filters_config, peers);
  }
};

using Answer = std::shared_ptr<std::optional<Reply>>;

Answer ask(const std::shared_ptr<ClientDevice>& share, Request request) {
  auto answer = std::make_shared<std::optional<Reply>>();
  share->submit(std::move(request), [answer](Reply reply) {
    REQUIRE_FALSE(answer->has_value());
    answer->emplace(std::move(reply));
  });
  return answer;
}

bool succeeded(const Answer& answer) { return *answer && (*answer)->has_value(); }
int number(const Answer& answer) { return *answer && !**answer ? (*answer)->error() : 0; }

DmaMap window(std::uint64_t iova, const Fd& fd) { return {Iova{iova}, page, Access::read, fd.duplicate().value(), 0}; }

SetIrqs interrupt(std::uint32_t index, std::uint32_t vector) {
  SetIrqs irqs{irq_data_eventfd | irq_action_trigger, index, vector, 1, {}, {}};
  irqs.eventfds.push_back(make_eventfd().value());
  return irqs;
}

bool changed(const NotingDevice& device) {
  return std::ranges::any_of(device.bar0, [](auto byte) { return byte != std::byte{}; });
}

} // namespace

TEST_CASE("a write that touches one byte of a protected page is refused as a whole, and one beside it is not") {
  Lending lending;
  lending.description.protected_pages = {{0, page, page}, {2, 4 * page, 2 * page}}; // as an MSI-X table, pending bits
  const auto share = lending.share();
  const auto written = [&](std::uint32_t bar, std::uint64_t offset, std::uint64_t bytes) {
    const auto answer = ask(share, RegionWrite{bar, offset, std::vector<std::byte>(bytes, std::byte{1})});
    REQUIRE((succeeded(answer) || number(answer) == EPERM));
    return succeeded(answer);
  };
  CHECK(written(0, page - 8, 8));
  CHECK(written(0, 0, page));
  const auto before = lending.device->bar0;
  for (const auto& [offset, bytes] : {std::pair{page - 7, 8UL},
                                      {page - 1, 2UL},
                                      {page, 1UL},
                                      {page, page},
                                      {page + 8, 8UL},
                                      {2 * page - 1, 1UL},
                                      {page - 8, page + 16},
                                      {0UL, 2 * page},
                                      {2 * page - 8, 16UL}}) {
    INFO(bytes << " bytes at " << offset);
    CHECK_FALSE(written(0, offset, bytes));
  }
  CHECK(lending.device->bar0 == before);
  CHECK(*lending.log == Log{"write", "write"});
  lending.device->bar0.resize(8 * page);
  CHECK(written(0, 2 * page, 8));
  CHECK(written(0, 4 * page, 2 * page)); // protected in another BAR
  CHECK(written(2, page, page));
  CHECK(written(2, 6 * page, 1));
  for (const auto offset : {4 * page, 5 * page - 4, 6 * page - 1}) CHECK_FALSE(written(2, offset, 8));
  CHECK_FALSE(written(2, 4 * page - 1, 2));
}

TEST_CASE("of a BAR that is all protected pages nobody has the descriptor") {
  Lending lending;
  const bool all = GENERATE(false, true);
  lending.description.protected_pages = {{0, page, all ? page : page / 2}};
  const auto answer = ask(lending.share(), GetRegionInfo{0});
  const auto& info = std::get<RegionInfo>(answer->value().value());
  CHECK(static_cast<bool>(info.fd) == !all);
  CHECK(info.areas.empty() == all);
  CHECK((info.flags & region_flag_mmap) == (all ? 0 : region_flag_mmap));
}

TEST_CASE("where configuration writes are filtered, what a client may not change stays, wherever its write begins") {
  Lending lending;
  const std::size_t offset = GENERATE(0U, 1U, 4U, 5U, 6U, 0x33U), end = 0x50;
  auto expected = std::vector<std::byte>(256);
  const auto may_change = [&expected](std::size_t from, std::size_t bytes, unsigned bits) {
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(from), bytes, static_cast<std::byte>(bits));
  };
  may_change(PCI_COMMAND, 1, PCI_COMMAND_MASTER); // and not memory or I/O space
  may_change(PCI_COMMAND + 1, 1, PCI_COMMAND_INTX_DISABLE >> 8);
  may_change(PCI_CACHE_LINE_SIZE, 2, 0xff);
  may_change(PCI_BASE_ADDRESS_0, 24, 0xff);
  may_change(PCI_ROM_ADDRESS, 4, 0xff);
  may_change(PCI_INTERRUPT_LINE, 1, 0xff);
  const bool filtered = GENERATE(true, false);
  if (!filtered) may_change(0, end, 0xff); // whatever serves the device filters
  may_change(0, offset, 0);
  lending.device->config.resize(256);
  const auto share = lending.share({}, filtered);
  CHECK(
      succeeded(ask(share, RegionWrite{config_region, offset, std::vector<std::byte>(end - offset, std::byte{0xff})})));
  CHECK(lending.device->config == expected);
}

TEST_CASE("a reset is for who has the device alone") {
  Lending lending;
  const auto one = lending.share(0), other = lending.share(1), alone = lending.share();
  CHECK(number(ask(one, Reset{})) == EPERM);
  CHECK(number(ask(other, Reset{})) == EPERM);
  CHECK(lending.log->empty());
  CHECK(succeeded(ask(alone, Reset{})));
  CHECK(*lending.log == Log{"reset"});
}

TEST_CASE("after the end of a use every request is answered, and none reaches the device") {
  Lending lending;
  const auto share = lending.share(GENERATE(std::optional<unsigned>{}, std::optional(0U)), GENERATE(false, true));
  const auto memory = make_memfd("memory", page).value();
  REQUIRE(succeeded(ask(share, window(page, memory))));
  const auto asked = lending.device->requests;
  share->close_epoch();

  const auto refused = [&](Request request) { return number(ask(share, std::move(request))) == ENODEV; };
  CHECK(refused(interrupt(msix, 0)));
  CHECK(refused(SetIrqs{irq_data_none | irq_action_trigger, msix, 0, 0, {}, {}}));
  CHECK(refused(window(2 * page, memory)));
  CHECK(refused(Reset{}));
  for (const std::uint32_t region : {0U, config_region}) {
    CHECK(std::get<Data>(ask(share, RegionRead{region, 0, 6})->value().value()).bytes ==
          std::vector<std::byte>(6, std::byte{0xff}));
    CHECK(succeeded(ask(share, RegionWrite{region, 4, std::vector<std::byte>(2, std::byte{6})})));
  }
  const auto unmaps = {ask(share, DmaUnmap{Iova{page}, page}), ask(share, DmaUnmap{Iova{}, 0, true})};
  for (const auto& unmap : unmaps) CHECK_FALSE(unmap->has_value()); // not before it is so
  CHECK(lending.device->requests == asked);
  CHECK(*lending.log == Log{"map"});
  CHECK(share->windows().size() == 1);

  share->windows_gone();
  for (const auto& unmap : unmaps) CHECK(succeeded(unmap));
  CHECK(share->windows().empty());
  CHECK(succeeded(ask(share, DmaUnmap{Iova{page}, page})));
  CHECK(lending.device->requests == asked);
}

TEST_CASE("a configuration write that is under way when its use ends does not reach the device") {
  Lending lending;
  const auto share = lending.share(GENERATE(std::optional<unsigned>{}, std::optional(0U)), true);
  const bool ends = GENERATE(false, true);
  lending.device->manner = SmallDevice::Manner::later;
  const auto write = ask(share, RegionWrite{config_region, PCI_COMMAND, {std::byte{6}, std::byte{}}});
  REQUIRE(lending.device->waiting.size() == 1); // what is there now
  if (ends) share->close_epoch();
  lending.device->manner = SmallDevice::Manner::at_once;
  lending.device->complete();
  CHECK(succeeded(write));
  CHECK(lending.log->empty() == ends);
}

TEST_CASE("requests under way when their use ends are answered as the device answers them") {
  Lending lending;
  const auto share = lending.share();
  lending.device->manner = SmallDevice::Manner::later;
  const auto memory = make_memfd("memory", page).value();
  const auto map = ask(share, window(page, memory));
  const auto read = ask(share, RegionRead{0, 0, 4});
  const auto irqs = ask(share, interrupt(msix, 1));
  share->close_epoch();
  CHECK(share->windows().size() == 1); // to be unmapped
  while (!lending.device->waiting.empty()) lending.device->complete();
  for (const auto& answer : {map, read, irqs}) CHECK(succeeded(answer));
  CHECK(share->windows().size() == 1);
  CHECK(share->used_interrupts(msix));
  CHECK_FALSE(changed(*lending.device));
}

TEST_CASE("a window onto another device's registers that was unmapped is not made again when that one is reset") {
  Lending one, target;
  target.description.identity.interface = "iommufd"; // there resets end windows
  target.peers = one.peers;
  const auto share = one.share(), owner = target.share();
  const auto registers = std::get<RegionInfo>(ask(owner, GetRegionInfo{0})->value().value()).fd.duplicate().value();
  REQUIRE(succeeded(ask(share, window(page, registers))));
  const bool all = GENERATE(false, true);
  SECTION("still mapped") {
    CHECK(succeeded(ask(owner, Reset{})));
    CHECK(*one.log == Log{"map", "unmap 4096", "map"});
    CHECK(share->windows().size() == 1);
  }
  SECTION("unmapped") {
    REQUIRE(succeeded(ask(share, DmaUnmap{all ? Iova{} : Iova{page}, all ? 0 : page, all})));
    one.log->clear();
    CHECK(succeeded(ask(owner, Reset{})));
    CHECK(one.log->empty());
    CHECK(one.device->windows.empty());
  }
  SECTION("the unmap failed") {
    one.device->failing = all ? "unmap all" : "unmap 4096";
    CHECK(number(ask(share, DmaUnmap{all ? Iova{} : Iova{page}, all ? 0 : page, all})) == EIO);
    one.device->failing.clear();
    one.log->clear();
    CHECK(succeeded(ask(owner, Reset{})));
    CHECK(*one.log == Log{"unmap 4096", "map"});
  }
  SECTION("it never was mapped") {
    one.device->failing = "map";
    CHECK(number(ask(share, window(8 * page, registers))) == EIO);
    one.device->failing.clear();
    one.log->clear();
    CHECK(succeeded(ask(owner, Reset{})));
    CHECK(*one.log == Log{"unmap 4096", "map"});
  }
  CHECK(*target.log == Log{"reset"});
}

TEST_CASE("registers that were given out are withdrawn from others by the end of their own device's use only") {
  Lending one, target;
  target.peers = one.peers;
  const auto share = one.share(), owner = target.share();
  const auto registers = std::get<RegionInfo>(ask(owner, GetRegionInfo{0})->value().value()).fd.duplicate().value();
  REQUIRE(succeeded(ask(share, window(page, registers))));
  REQUIRE(succeeded(ask(share, window(4 * page, make_memfd("own", page).value()))));
  bool done = false;
  one.peers->withdraw(one.device.get(), [&done] { done = true; });
  CHECK((done && share->windows().size() == 2));
  one.peers->withdraw(target.device.get(), [&done] { done = true; });
  CHECK((share->windows().bytes() == page && share->windows().find(4 * page) != nullptr));
  CHECK(*one.log == Log{"map", "map", "unmap 4096"});
}
