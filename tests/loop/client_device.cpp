// What the lender lets one of several clients of a device do.
#include "client_device.hpp"
#include "catch.hpp"
#include "skipped.hpp"
#include "small_device.hpp"
#include "without_kcmp.hpp"

#include <algorithm>
#include <linux/pci_regs.h>
#include <optional>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::test;

namespace {

constexpr std::uint64_t page = 4096;

/// Unmaps exactly, and refuses what overlaps, as kernel VFIO does.
class ExactDevice final : public SmallDevice {
public:
  std::map<std::uint64_t, std::uint64_t> mapped;
  int refuse_unmaps = 0, refuse_irqs = 0;
  std::uint32_t flags = device_flag_pci; ///< of GetInfo

  void submit(Request request, Completion done) override {
    if (manner == Manner::later) return SmallDevice::submit(std::move(request), std::move(done));
    done(exactly(request));
  }
  void complete_all() {
    for (; !waiting.empty(); waiting.pop_front()) waiting.front().second(exactly(waiting.front().first));
  }

private:
  vfio::Reply exactly(Request& request) {
    if (std::holds_alternative<GetInfo>(request)) return Info{flags, region_count, irq_count};
    if (auto* map = std::get_if<DmaMap>(&request)) {
      const bool added = mapped.try_emplace(std::to_underlying(map->iova), map->size).second;
      return added ? vfio::Reply(Done{}) : std::unexpected(EEXIST);
    }
    if (const auto* range = std::get_if<DmaUnmap>(&request)) {
      if (refuse_unmaps != 0) return std::unexpected(refuse_unmaps);
      std::uint64_t bytes = 0;
      std::erase_if(mapped, [&](const auto& window) {
        const auto first = std::to_underlying(range->iova);
        const bool within = range->all || (window.first >= first && window.first - first < range->size);
        bytes += within ? window.second : 0;
        return within;
      });
      return Unmapped{bytes};
    }
    if (std::holds_alternative<SetIrqs>(request) && refuse_irqs != 0) return std::unexpected(refuse_irqs);
    return carry_out(std::move(request));
  }
};

struct Sharers {
  std::shared_ptr<ExactDevice> device = std::make_shared<ExactDevice>();
  std::shared_ptr<RegisterWindows> peers = std::make_shared<RegisterWindows>();
  std::shared_ptr<VectorOwners> vectors = std::make_shared<VectorOwners>();
  std::shared_ptr<ClientDevice> one = make(0), other = make(1);

  std::shared_ptr<ClientDevice> make(std::optional<unsigned> slice, bool filters_config = false) const {
    const Description description{.identity = {}, .config = std::vector<std::byte>(256)};
    return std::make_shared<ClientDevice>(device, description, slice, filters_config, peers, vectors);
  }
};

std::optional<Reply> ask(ClientDevice& share, Request request) {
  std::optional<Reply> reply;
  share.submit(std::move(request), [&reply](Reply answer) { reply = std::move(answer); });
  return reply;
}

DmaMap window(Iova iova, std::uint64_t size = page) {
  return {.iova = iova, .size = size, .access = Access::read, .fd = {}};
}

DmaMap window(std::uint64_t number, unsigned slice = 0) {
  return window(Iova{slice * iova_slice_size + number * page});
}

std::uint32_t flags(ClientDevice& share) {
  const auto reply = ask(share, GetInfo{});
  REQUIRE((reply && *reply));
  return std::get<Info>(**reply).flags;
}

std::uint64_t unmapped(const std::optional<Reply>& reply) {
  REQUIRE((reply && *reply));
  return std::get<Unmapped>(**reply).size;
}

} // namespace

TEST_CASE("a client of a shared device unmaps its own windows, whatever range it names") {
  Sharers sharers;
  for (const std::uint64_t number : {1U, 3U}) CHECK(ask(*sharers.one, window(number))->has_value());
  for (const std::uint64_t number : {0U, 2U}) CHECK(ask(*sharers.other, window(number, 1))->has_value());
  const auto theirs = iova_slice_size;
  SECTION("a range") { CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 64 * page})) == 2 * page); }
  SECTION("a range of both slices") {
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 2 * iova_slice_size})) == 2 * page);
  }
  SECTION("all") { CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 0, true})) == 2 * page); }
  SECTION("a range to the last address") {
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{page}, UINT64_MAX - page + 1})) == 2 * page);
  }
  SECTION("nothing of its own") {
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{2 * page}, page})) == 0);
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{theirs}, page})) == 0);
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{theirs}, iova_slice_size})) == 0);
    CHECK(sharers.device->mapped.size() == 4);
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 0, true})) == 2 * page);
  }
  CHECK(sharers.device->mapped == std::map<std::uint64_t, std::uint64_t>{{theirs, page}, {theirs + 2 * page, page}});
  CHECK(sharers.one->windows().empty());
  CHECK(sharers.other->windows().size() == 2);
}

TEST_CASE("a range that cuts a window of a shared device's client is refused as a whole") {
  Sharers sharers;
  auto wide = window(4);
  wide.size = 4 * page;
  CHECK(ask(*sharers.one, std::move(wide))->has_value());
  CHECK(ask(*sharers.one, window(1))->has_value());
  for (const auto& [first, pages] : {std::pair{0, 5}, {5, 1}, {7, 5}})
    CHECK(*ask(*sharers.one, DmaUnmap{Iova{static_cast<std::uint64_t>(first) * page},
                                      static_cast<std::uint64_t>(pages) * page}) == std::unexpected(EINVAL));
  CHECK(sharers.device->mapped.size() == 2);
}

TEST_CASE("an unmap that fails is an error, and its window stays on record") {
  Sharers sharers;
  CHECK(ask(*sharers.one, window(1))->has_value());
  sharers.device->refuse_unmaps = EIO;
  CHECK(*ask(*sharers.one, DmaUnmap{Iova{0}, 0, true}) == std::unexpected(EIO));
  CHECK(sharers.one->windows().size() == 1);
}

TEST_CASE("windows are on record from when they are asked for, in whatever state the device has them") {
  Sharers sharers;
  const auto share = sharers.make(GENERATE(std::optional(0U), std::nullopt));
  sharers.device->manner = SmallDevice::Manner::later;
  unsigned done = 0, failed = 0;
  const auto submit = [&](Request request) {
    share->submit(std::move(request), [&](const Reply& reply) { ++(reply ? done : failed); });
  };
  submit(window(1));
  submit(window(1)); // refused
  CHECK(share->windows().size() == 1);
  submit(DmaUnmap{Iova{page}, page});
  submit(window(1));
  sharers.device->complete_all();
  CHECK((done == 3 && failed == 1));
  CHECK(sharers.device->mapped.size() == 1);
  CHECK(share->windows().size() == 1);
}

TEST_CASE("a window that the device refuses is not on record") {
  Sharers sharers;
  sharers.device->mapped[page] = page; // of somebody else
  CHECK(*ask(*sharers.one, window(1)) == std::unexpected(EEXIST));
  CHECK(sharers.one->windows().empty());
}

TEST_CASE("a window that may outlive the loan of the registers it reaches is refused and not on record") {
  Sharers sharers;
  const auto registers = make_eventfd().value(), others = make_eventfd().value(); // of one inode, as VFIO's may be
  sharers.peers->exported(sharers.device.get(), 0, registers);
  std::optional<Reply> reply;
  const bool asked = without_kcmp([&] {
    auto map = window(1);
    map.fd = others.duplicate().value();
    reply = ask(*sharers.one, std::move(map));
  });
  if (!asked) SKIPPED("no system call can be forbidden here");
  CHECK((reply && *reply == std::unexpected(EOPNOTSUPP)));
  CHECK(sharers.device->mapped.empty());
  CHECK(sharers.one->windows().empty());
}

TEST_CASE("a client of a shared device maps in its own slice, from its first byte to its last, and nowhere else") {
  Sharers sharers;
  const unsigned slice = GENERATE(0U, 1U, 31U);
  const auto share = sharers.make(slice);
  const auto start = slice * iova_slice_size, end = start + iova_slice_size;
  const auto refused = [&](std::uint64_t iova, std::uint64_t size) {
    return *ask(*share, window(Iova{iova}, size)) == std::unexpected(ERANGE);
  };
  CHECK(refused(start - page, page)); // wraps for slice 0
  CHECK(refused(start - page, 2 * page));
  CHECK(refused(end - page, 2 * page));
  CHECK(refused(end, page));
  CHECK(refused(start, iova_slice_size + page));
  CHECK(refused(start + page, UINT64_MAX - start - page + 1));
  CHECK(refused(UINT64_MAX - page + 1, page));
  CHECK(share->windows().empty());
  CHECK(sharers.device->requests == 0);
  CHECK(sharers.device->mapped.empty());
  for (const auto& [iova, size] :
       {std::pair{start, page}, {end - page, page}, {start + page, iova_slice_size - 2 * page}})
    CHECK(ask(*share, window(Iova{iova}, size))->has_value());
  CHECK(sharers.device->mapped.size() == 3);
}

TEST_CASE("whoever has a device alone maps where it likes") {
  Sharers sharers;
  const auto share = sharers.make({});
  for (const std::uint64_t iova : {0UL, iova_slice_size - page, 1UL << 40, UINT64_MAX - page + 1})
    CHECK(ask(*share, window(Iova{iova}, page))->has_value());
  CHECK(sharers.device->mapped.size() == 4);
}

TEST_CASE("GetInfo tells a client its slice, whatever the device's server says in its place") {
  Sharers sharers;
  const auto [one, last, alone] = std::tuple{sharers.one, sharers.make(31), sharers.make({})};
  for (const std::uint32_t said : {0x00U, 0x01U, 0x05U, 0x20U, 0xffU}) {
    sharers.device->flags = said << 24 | 0xa5a5a3;
    CHECK(flags(*one) == 0x01a5a5a3);
    CHECK(flags(*sharers.other) == 0x02a5a5a3);
    CHECK(flags(*last) == 0x20a5a5a3);
    CHECK(flags(*alone) == 0x00a5a5a3);
  }
  CHECK(slice_of(flags(*one)) == 0);
  CHECK(slice_of(flags(*last)) == 31);
  CHECK(slice_of(flags(*alone)) == std::nullopt);
  CHECK(slice_of(0x21000000) == std::nullopt); // there is no such slice
}

TEST_CASE("clients of one device have windows at once, and none ends another's") {
  Sharers sharers;
  CHECK(ask(*sharers.one, window(1))->has_value());
  CHECK(ask(*sharers.other, window(1, 1))->has_value());
  CHECK(*ask(*sharers.one, window(2, 1)) == std::unexpected(ERANGE));
  CHECK(*ask(*sharers.one, window(1, 1)) == std::unexpected(ERANGE));
  CHECK(*ask(*sharers.other, window(1)) == std::unexpected(ERANGE));
  CHECK(unmapped(ask(*sharers.other, DmaUnmap{Iova{page}, page})) == 0);
  CHECK(unmapped(ask(*sharers.other, DmaUnmap{Iova{0}, iova_slice_size})) == 0);
  CHECK(sharers.device->mapped.size() == 2);
  CHECK(sharers.one->windows().size() == 1);
  CHECK(sharers.other->windows().size() == 1);
}

TEST_CASE("a client of a shared device cannot clear Bus Master Enable, wherever its write begins") {
  Sharers sharers;
  const auto share = sharers.make(2, GENERATE(false, true));
  sharers.device->config[PCI_COMMAND] = std::byte{PCI_COMMAND_MASTER};
  for (const std::uint64_t offset : {0U, 3U, 4U, 5U}) {
    REQUIRE(ask(*share, RegionWrite{config_region, offset, std::vector<std::byte>(8)})->has_value());
    CHECK(sharers.device->config[PCI_COMMAND] == std::byte{PCI_COMMAND_MASTER});
  }
}

namespace {

constexpr std::uint32_t assign = irq_data_eventfd | irq_action_trigger, none = irq_data_none | irq_action_trigger;

SetIrqs vector(std::uint32_t number, std::uint32_t count = 1) {
  SetIrqs irqs{assign, msix, number, count, {}, {}};
  for (std::uint32_t i = 0; i < count; ++i) irqs.eventfds.push_back(make_eventfd().value());
  return irqs;
}

/// What the device was told: flags, start, count and eventfds of each request.
using Told = std::vector<std::array<std::uint32_t, 4>>;
Told told(ExactDevice& device) {
  Told all;
  for (const auto& irqs : device.irqs)
    all.push_back({irqs.flags, irqs.start, irqs.count, static_cast<std::uint32_t>(irqs.eventfds.size())});
  device.irqs.clear();
  return all;
}

} // namespace

TEST_CASE("sharers of a device have vectors of their own, and none takes or disables another's") {
  Sharers sharers;
  auto& device = *sharers.device;
  CHECK(ask(*sharers.one, vector(0, 2))->has_value());
  CHECK(ask(*sharers.other, vector(2))->has_value());
  CHECK(told(device) == Told{{assign, 0, 2, 2}, {assign, 2, 1, 1}});
  CHECK(*ask(*sharers.other, vector(1)) == std::unexpected(EBUSY));
  CHECK(*ask(*sharers.other, vector(1, 4)) == std::unexpected(EBUSY));
  CHECK(*ask(*sharers.other, SetIrqs{irq_data_none | irq_action_mask, msix, 0, 1, {}, {}}) == std::unexpected(EBUSY));
  CHECK(told(device).empty());

  SECTION("switching all off means all of one's own") {
    CHECK(ask(*sharers.one, SetIrqs{none, msix, 0, 0, {}, {}})->has_value());
    CHECK(told(device) == Told{{assign, 0, 1, 0}, {assign, 1, 1, 0}});
    CHECK(ask(*sharers.other, vector(0))->has_value());                       // free now
    CHECK(ask(*sharers.one, SetIrqs{none, msix, 0, 0, {}, {}})->has_value()); // has none
    CHECK(told(device) == Told{{assign, 0, 1, 1}});
  }
  SECTION("so does a range without eventfds") {
    CHECK(ask(*sharers.other, SetIrqs{assign, msix, 0, 65, {}, {}})->has_value());
    CHECK(told(device) == Told{{assign, 2, 1, 0}});
  }
  SECTION("the last one that has vectors switches the device's interrupts off") {
    CHECK(ask(*sharers.one, SetIrqs{none, msix, 0, 0, {}, {}})->has_value());
    told(device);
    CHECK(ask(*sharers.other, SetIrqs{none, msix, 0, 0, {}, {}})->has_value());
    CHECK(told(device) == Told{{none, 0, 0, 0}});
  }
  SECTION("what the device refuses is nobody's") {
    device.refuse_irqs = ENOSPC;
    CHECK(*ask(*sharers.one, vector(5)) == std::unexpected(ENOSPC));
    device.refuse_irqs = 0;
    CHECK(ask(*sharers.other, vector(5))->has_value());
    CHECK(*ask(*sharers.one, vector(5)) == std::unexpected(EBUSY));
  }
  SECTION("a share that ends gives up its own") {
    CHECK(sharers.one->release_vectors().size() == 2);
    CHECK(sharers.one->release_vectors().empty());
    CHECK(ask(*sharers.other, vector(0))->has_value());
  }
}

TEST_CASE("whoever has a device alone does with its vectors what it likes") {
  Sharers sharers;
  const auto alone = sharers.make({});
  CHECK(ask(*alone, vector(0))->has_value());
  CHECK(ask(*alone, SetIrqs{none, msix, 0, 0, {}, {}})->has_value());
  CHECK(told(*sharers.device) == Told{{assign, 0, 1, 1}, {none, 0, 0, 0}});
}
