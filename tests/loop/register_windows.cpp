// What a lender does about windows of its devices onto registers of each other.
#include "register_windows.hpp"
#include "catch.hpp"
#include "skipped.hpp"
#include "test_device.hpp"
#include "without_kcmp.hpp"

#include <fcntl.h>

using namespace smartio;
using namespace testing;

namespace {

constexpr std::uint64_t page = TestDevice::page;

struct Pair {
  Pair() { peers.exported(target.get(), 0, target->registers); }

  /// As a client maps `fd` for the device.
  void map(std::uint64_t iova, const Fd& fd) {
    vfio::DmaMap map{Iova{iova}, page, Access::read_write, fd.duplicate().value(), 0};
    const auto peer = peers.mapping(device, map, record);
    REQUIRE(peer);
    device->submit(std::move(map), [this, iova, peer = *peer](vfio::Reply reply) {
      if (reply) record->add(iova, page);
      if (!reply && peer) peers.failed(*peer);
    });
  }
  /// Whether the window would be one onto registers, or the errno it is refused with.
  std::expected<bool, int> noted(const Fd& fd) {
    vfio::DmaMap map{Iova{page}, page, Access::read, fd.duplicate().value(), 0};
    const auto id = peers.mapping(device, map, record);
    if (!id) return std::unexpected(id.error());
    return id->has_value();
  }
  /// Whether it was all done at once, as this device answers.
  bool withdraw() {
    bool done = false;
    peers.withdraw(target.get(), [&done] { done = true; });
    return done;
  }

  std::shared_ptr<TestDevice> device = std::make_shared<TestDevice>(), target = std::make_shared<TestDevice>();
  std::shared_ptr<RegisterWindows::Windows> record = std::make_shared<RegisterWindows::Windows>();
  std::shared_ptr<RegisterWindows> owner = std::make_shared<RegisterWindows>();
  RegisterWindows& peers = *owner;
};

} // namespace

TEST_CASE("when a device's loan ends, others no longer reach its registers, and keep their own windows") {
  Pair pair;
  pair.map(page, pair.target->registers);
  pair.map(2 * page, make_memfd("own", page).value());
  CHECK(pair.withdraw());
  CHECK(pair.device->windows.size() == 1);
  CHECK(pair.device->windows.contains(2 * page));
  CHECK((pair.record->bytes() == page && pair.record->find(2 * page) != nullptr));
}

TEST_CASE("the loan's end waits until the other device has unmapped, whatever comes of it") {
  Pair pair;
  pair.map(page, pair.target->registers);
  std::optional<Iova> asked;
  pair.device->ignore = [&asked](const vfio::Request& request) {
    if (const auto* unmap = std::get_if<vfio::DmaUnmap>(&request)) asked = unmap->iova;
    return true;
  };
  bool done = false;
  pair.peers.withdraw(pair.target.get(), [&done] { done = true; });
  CHECK_FALSE(done);
  CHECK(asked == Iova{page});
  pair.device->client_left(); // the request ends
  CHECK(done);
}

TEST_CASE("windows that were unmapped, refused or ended with their device are not unmapped again") {
  Pair pair;
  unsigned unmaps = 0;
  pair.map(page, pair.target->registers);
  pair.peers.unmapped(pair.device.get(), {Iova{0}, 2 * page});
  pair.device->refuse = [&unmaps](const vfio::Request& request) {
    unmaps += std::get_if<vfio::DmaUnmap>(&request) != nullptr;
    return std::get_if<vfio::DmaMap>(&request) != nullptr ? ENOSPC : 0;
  };
  pair.map(4 * page, pair.target->registers);
  CHECK(pair.withdraw());
  CHECK(unmaps == 0);
  pair.device->refuse = [&unmaps](const vfio::Request& request) {
    unmaps += std::get_if<vfio::DmaUnmap>(&request) != nullptr;
    return 0;
  };
  pair.peers.exported(pair.target.get(), 0, pair.target->registers);
  pair.map(6 * page, pair.target->registers);
  pair.peers.forget(pair.device.get());
  CHECK(pair.withdraw());
  CHECK(unmaps == 0);
}

TEST_CASE(
    "registers are known by their file, whoever opened it, and what has no file of its own by its opening alone") {
  Pair pair;
  const auto name = "/proc/self/fd/" + std::to_string(pair.target->registers.get());
  const Fd again(::open(name.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(again);
  pair.map(page, again);
  CHECK(pair.withdraw());
  CHECK(pair.device->windows.empty());
  const auto one = make_eventfd().value(), other = make_eventfd().value(); // of one inode, as VFIO's devices may be
  pair.peers.exported(pair.target.get(), 0, one);
  CHECK(pair.noted(one) == true);
  CHECK(pair.noted(other) == false);
}

TEST_CASE("where the kernel does not compare descriptors, what may be a device's registers is refused") {
  Pair pair;
  const auto device = make_eventfd().value(), another_device = make_eventfd().value(); // of one inode, as a group's are
  const auto memory = make_memfd("own", page).value();
  const Fd node(::open("/dev/null", O_RDWR | O_CLOEXEC)), same(::open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<std::expected<bool, int>> told;
  const auto ask = [&](const Fd& fd) { told.push_back(pair.noted(fd)); };
  const bool asked = test::without_kcmp([&] {
    for (const Fd* fd : {&std::as_const(pair.target->registers), &memory, &node}) ask(*fd);
    pair.peers.exported(pair.target.get(), 1, node);
    pair.peers.exported(pair.target.get(), 2, device);
    for (const Fd* fd : {&same, &std::as_const(pair.target->registers), &memory, &device, &another_device}) ask(*fd);
  });
  if (!asked) SKIPPED("no system call can be forbidden here");
  const std::unexpected<int> refused(EOPNOTSUPP);
  CHECK(told == std::vector<std::expected<bool, int>>{true, false, false, true, true, false, refused, refused});
}

TEST_CASE("a descriptor is held no longer than its device's loan") {
  Pair pair;
  CHECK(pair.withdraw());
  pair.map(page, pair.target->registers); // by a client that kept it: its own loan's matter
  CHECK(pair.withdraw());
  CHECK(pair.device->windows.size() == 1);
}

namespace {

/// What `device` is asked about windows, in order; refuses what `number` says.
void log_requests(TestDevice& device, std::vector<std::string>& asked, std::function<int(const std::string&)> number) {
  device.refuse = [&asked, number = std::move(number)](const vfio::Request& request) {
    if (std::get_if<vfio::DmaMap>(&request) != nullptr) asked.push_back("map");
    if (std::get_if<vfio::DmaUnmap>(&request) != nullptr) asked.push_back("unmap");
    return asked.empty() ? 0 : number(asked.back());
  };
}

int never(const std::string&) { return 0; }

bool remake(Pair& pair) {
  bool done = false;
  pair.peers.remake(pair.target.get(), [&done] { done = true; });
  return done;
}

} // namespace

TEST_CASE("after a reset of the target others reach its registers where they did, and their own memory all the time") {
  Pair pair;
  pair.map(page, pair.target->registers);
  pair.map(2 * page, make_memfd("own", page).value());
  std::vector<std::string> asked;
  log_requests(*pair.device, asked, never);
  CHECK(remake(pair));
  CHECK(asked == std::vector<std::string>{"unmap", "map"});
  CHECK(pair.device->windows.size() == 2);
  CHECK(pair.record->size() == 2);
  pair.target->bar0.bytes()[5] = std::byte{42};
  CHECK(pair.device->windows.at(page).memory.bytes()[5] == std::byte{42});
  CHECK(pair.withdraw()); // as before
  CHECK(pair.device->windows.size() == 1);
}

TEST_CASE("the reset of one target and the end of another device concern no windows but their own") {
  Pair pair;
  const auto other_target = std::make_shared<TestDevice>(), other_device = std::make_shared<TestDevice>();
  pair.peers.exported(other_target.get(), 0, other_target->registers);
  pair.map(page, pair.target->registers);
  pair.map(2 * page, other_target->registers);
  std::vector<std::string> asked;
  log_requests(*pair.device, asked, never);
  CHECK(remake(pair));
  CHECK(asked == std::vector<std::string>{"unmap", "map"});
  pair.peers.forget(other_device.get());
  CHECK(pair.withdraw());
  CHECK(pair.device->windows.size() == 1);
  CHECK(pair.device->windows.contains(2 * page));
}

TEST_CASE("a window that cannot be made again is gone, and the reset is over all the same") {
  Pair pair;
  pair.map(page, pair.target->registers);
  std::vector<std::string> asked;
  log_requests(*pair.device, asked, [](const std::string& what) { return what == "map" ? ENODEV : 0; });
  CHECK(remake(pair));
  CHECK(pair.record->empty());
  CHECK(remake(pair));
  CHECK(asked == std::vector<std::string>{"unmap", "map"});
}

TEST_CASE("a window that its client unmaps while it is made again does not stay") {
  Pair pair;
  pair.map(page, pair.target->registers);
  std::vector<std::string> asked;
  log_requests(*pair.device, asked, [&pair](const std::string& what) {
    if (what == "map") pair.peers.unmapped(pair.device.get(), {Iova{page}, page}); // that came first
    return 0;
  });
  CHECK(remake(pair));
  CHECK(asked == std::vector<std::string>{"unmap", "map", "unmap"});
  CHECK(pair.device->windows.empty());
}
