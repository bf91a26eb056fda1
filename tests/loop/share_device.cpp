// What the lender lets one of several clients of a device do.
#include "share_device.hpp"
#include "catch.hpp"
#include "small_device.hpp"

#include <algorithm>
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
  int refuse_unmaps = 0;

  void submit(Request request, Completion done) override {
    if (manner == Manner::later) return SmallDevice::submit(std::move(request), std::move(done));
    done(exactly(request));
  }
  void complete_all() {
    for (; !waiting.empty(); waiting.pop_front()) waiting.front().second(exactly(waiting.front().first));
  }

private:
  vfio::Reply exactly(Request& request) {
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
    return carry_out(std::move(request));
  }
};

struct Sharers {
  std::shared_ptr<ExactDevice> device = std::make_shared<ExactDevice>();
  std::shared_ptr<PeerWindows> peers = std::make_shared<PeerWindows>();
  std::shared_ptr<ShareDevice> one = make(true), other = make(true);

  std::shared_ptr<ShareDevice> make(bool shared) const {
    return std::make_shared<ShareDevice>(device, Description{}, shared, false, peers);
  }
};

std::optional<Reply> ask(ShareDevice& share, Request request) {
  std::optional<Reply> reply;
  share.submit(std::move(request), [&reply](Reply answer) { reply = std::move(answer); });
  return reply;
}

DmaMap window(std::uint64_t number) {
  return {.iova = Iova{number * page}, .size = page, .access = Access::read, .fd = {}};
}

std::uint64_t unmapped(const std::optional<Reply>& reply) {
  REQUIRE((reply && *reply));
  return std::get<Unmapped>(**reply).size;
}

} // namespace

TEST_CASE("a client of a shared device unmaps its own windows, whatever range it names") {
  Sharers sharers;
  for (const std::uint64_t number : {1, 3}) CHECK(ask(*sharers.one, window(number))->has_value());
  for (const std::uint64_t number : {2, 4}) CHECK(ask(*sharers.other, window(number))->has_value());
  SECTION("a range") { CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 64 * page})) == 2 * page); }
  SECTION("all") { CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 0, true})) == 2 * page); }
  SECTION("a range to the last address") {
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{page}, UINT64_MAX - page + 1})) == 2 * page);
  }
  SECTION("nothing of its own") {
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{2 * page}, page})) == 0);
    CHECK(sharers.device->mapped.size() == 4);
    CHECK(unmapped(ask(*sharers.one, DmaUnmap{Iova{0}, 0, true})) == 2 * page);
  }
  CHECK(sharers.device->mapped == std::map<std::uint64_t, std::uint64_t>{{2 * page, page}, {4 * page, page}});
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
  const auto share = sharers.make(GENERATE(true, false));
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
