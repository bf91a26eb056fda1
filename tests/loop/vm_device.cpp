// A device as virtual machines see it, told what QEMU tells: all of the guest's memory is reached, or there is no
// device.
#include "vm_device.hpp"
#include "catch.hpp"
#include "small_device.hpp"
#include "user/server.hpp"
#include "vfio_user_raw.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

constexpr std::uint64_t page = 4096, mebibyte = 1 << 20;
constexpr std::uint32_t reads = 1, writes = 2;

/// Refuses what it is told to.
class PickyDevice final : public SmallDevice {
public:
  int refuse_maps = 0; ///< errno
  std::vector<IovaRange> usable;
  void submit(Request request, Completion done) override {
    if (std::holds_alternative<GetInfo>(request)) return done(Info{device_flag_pci, region_count, irq_count, usable});
    if (std::holds_alternative<DmaMap>(request) && refuse_maps != 0) return done(std::unexpected(refuse_maps));
    SmallDevice::submit(std::move(request), std::move(done));
  }
};

/// A virtual machine's end of a loan.
struct Machine {
  boost::asio::io_context io;
  std::shared_ptr<PickyDevice> device = std::make_shared<PickyDevice>();
  std::vector<std::string> reasons;
  unsigned changes = 0;
  std::shared_ptr<VmDevice> served = std::make_shared<VmDevice>(
      device, [this](std::string reason) { reasons.push_back(std::move(reason)); }, [this] { ++changes; });
  Counters counters;
  std::shared_ptr<Connection> connection;
  std::optional<Raw> raw;
  Fd memory = make_memfd("guest memory", 64 * mebibyte).value();
  Fd error_event = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));

  explicit Machine(std::vector<IovaRange> usable = {}) {
    device->usable = std::move(usable);
    auto [ours, theirs] = Raw::pair(io);
    raw = std::move(ours);
    connection = Connection::start(std::move(theirs), served, counters, [] {});
    REQUIRE(raw->ask(message(Command::version, version("{}"))));
    const SetIrqsBody error{20, irq_data_eventfd | irq_action_trigger, err, 0, 1};
    REQUIRE(answer(message(Command::set_irqs, test::raw(error)), {error_event.get()}) == 0);
  }

  /// The errno of the answer, 0 for success.
  std::uint32_t answer(const Bytes& command, std::vector<int> fds = {}) {
    const auto reply = raw->ask(command, std::move(fds));
    REQUIRE(reply);
    return reply->failed() ? reply->header.error : 0;
  }
  std::uint32_t map(std::uint64_t iova, std::uint64_t size, std::uint32_t flags, bool shared) {
    const DmaMapBody body{32, flags, 0, iova, size};
    return answer(message(Command::dma_map, test::raw(body)), shared ? std::vector{memory.get()} : std::vector<int>{});
  }
  std::uint32_t unmap(std::uint64_t iova, std::uint64_t size) {
    return answer(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, iova, size})));
  }
  std::uint32_t command_register(std::uint16_t value) {
    return answer(message(Command::region_write, join(test::raw(AccessBody{4, config_region, 2}), test::raw(value))));
  }
  std::optional<Bytes> read(std::uint32_t region) {
    const auto reply = raw->ask(message(Command::region_read, region_read(0, region, 4)));
    REQUIRE(reply);
    if (reply->failed()) return std::nullopt;
    return Bytes(reply->payload.begin() + sizeof(AccessBody), reply->payload.end());
  }
  bool error_signalled() {
    std::uint64_t count = 0;
    return ::read(error_event.get(), &count, sizeof count) == sizeof count;
  }
  bool works() { return reasons.empty() && read(config_region) == Bytes(4) && !error_signalled(); }
};

const Bytes ones(4, std::byte{0xff});

void check_gone(Machine& machine, const std::string& reason) {
  REQUIRE(machine.reasons.size() == 1);
  INFO(machine.reasons.front());
  CHECK(machine.reasons.front().find(reason) != std::string::npos);
  CHECK(machine.error_signalled());
  for (const std::uint32_t region : {0U, config_region}) CHECK(machine.read(region) == ones);
  CHECK(machine.command_register(6) == 0);
  CHECK(machine.device->config[4] == std::byte{}); // no bus mastering
  CHECK(machine.map(16 * mebibyte, page, reads | writes, true) == ENODEV);
  CHECK(machine.answer(message(Command::reset)) == ENODEV);
  CHECK(machine.answer(message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x21, msix, 0, 0}))) == 0);
  CHECK(machine.reasons.size() == 1);
}

} // namespace

TEST_CASE("windows without a descriptor are accepted, counted, and never reach the device") {
  Machine machine;
  CHECK(machine.map(0, 16 * mebibyte, reads | writes, true) == 0);
  CHECK(machine.map(0xfffc0000, 256 * 1024, reads, false) == 0);            // firmware
  CHECK(machine.map(0x380000000000, mebibyte, reads | writes, false) == 0); // another device's registers
  CHECK(machine.device->windows.size() == 1);
  CHECK(machine.served->unreachable() == 2);
  CHECK(machine.command_register(6) == 0);
  CHECK(machine.works());
  CHECK(machine.device->config[4] == std::byte{6});

  CHECK(machine.unmap(0x380000000000, mebibyte) == 0);
  CHECK(machine.served->unreachable() == 1);
  CHECK(machine.device->windows.size() == 1);
  CHECK(machine.unmap(0xfffc0000, 256 * 1024) == 0);
  CHECK(machine.served->unreachable() == 0);
  CHECK(machine.changes == 4);
  CHECK(machine.device->kinds[7] == 0); // no unmap reached the device
  CHECK(machine.works());
}

TEST_CASE("an unmap of all ends windows with and without a descriptor, and is answered with its own entry") {
  Machine machine;
  CHECK(machine.map(0, page, reads | writes, true) == 0);
  CHECK(machine.map(page, page, reads, false) == 0);
  const auto reply = machine.raw->ask(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, unmap_flag_all, 0, 0})));
  REQUIRE((reply && !reply->failed()));
  DmaUnmapBody body{};
  REQUIRE(reply->payload.size() == sizeof body);
  std::memcpy(&body, reply->payload.data(), sizeof body);
  CHECK(body.size == 0);
  CHECK(machine.served->unreachable() == 0);
  CHECK(machine.device->windows.empty());
  CHECK(machine.map(0, 2 * page, reads | writes, true) == 0);
}

TEST_CASE("windows do not overlap, with or without a descriptor, and are not cut") {
  Machine machine;
  CHECK(machine.map(4 * page, 4 * page, reads, false) == 0);
  CHECK(machine.map(12 * page, 4 * page, reads | writes, true) == 0);
  for (const bool shared : {false, true})
    for (const std::uint64_t first : {3U, 4U, 7U, 11U, 12U, 15U})
      CHECK(machine.map(first * page, 2 * page, reads, shared) == EEXIST);
  CHECK(machine.map(0, 64 * page, reads, false) == EEXIST);
  CHECK(machine.unmap(4 * page, page) == EINVAL);
  CHECK(machine.unmap(0, 5 * page) == EINVAL);
  CHECK(machine.unmap(7 * page, page) == EINVAL);
  CHECK(machine.unmap(0, 13 * page) == EINVAL);
  CHECK(machine.served->unreachable() == 1);
  CHECK(machine.works());
}

TEST_CASE("a guest without memory that the device can write has no device from the moment it masters the bus") {
  Machine machine;
  CHECK(machine.map(0, 16 * mebibyte, reads | writes, false) == 0);
  const bool firmware_file = GENERATE(false, true);
  if (firmware_file) CHECK(machine.map(0xfffc0000, page, reads, true) == 0); // read-only: no memory
  CHECK(machine.command_register(2) == 0);
  CHECK(machine.works());
  CHECK(machine.command_register(6) == 0);
  check_gone(machine, "start QEMU with share=on memory");
  CHECK(machine.unmap(0, 16 * mebibyte) == 0);
}

TEST_CASE("bus mastering is seen in a write of any width that holds its bit") {
  Machine machine;
  CHECK(machine.map(0, 16 * mebibyte, reads | writes, false) == 0);
  const Bytes whole(16, std::byte{4});
  CHECK(machine.answer(message(Command::region_write, join(test::raw(AccessBody{4, 0, 16}), whole))) == 0); // a BAR
  CHECK(machine.works());
  const std::uint64_t offset = GENERATE(0U, 1U, 4U);
  CHECK(machine.answer(message(Command::region_write, join(test::raw(AccessBody{offset, config_region, 16}), whole))) ==
        0);
  CHECK(machine.reasons.size() == 1);
}

TEST_CASE("without any window there is nothing to complain of: behind a virtual IOMMU windows come and go") {
  Machine machine;
  CHECK(machine.command_register(6) == 0);
  CHECK(machine.works());
  CHECK(machine.command_register(0) == 0);
  CHECK(machine.map(0, 16 * mebibyte, reads | writes, true) == 0);
  CHECK(machine.map(0x380000000000, mebibyte, reads | writes, false) == 0);
  CHECK(machine.unmap(0, 16 * mebibyte) == 0);
  CHECK(machine.command_register(6) == 0);
  CHECK(machine.works());
}

TEST_CASE("a window that the device cannot have fails it as a whole, with what to do") {
  const auto [number, reason] = GENERATE(table<int, std::string>({{ENOMEM, "LimitMEMLOCK"},
                                                                  {ENOSPC, "for a PCI device of the lender's host"},
                                                                  {EINVAL, "reserves"},
                                                                  {ERANGE, "borrow it exclusively"},
                                                                  {EIO, "file"}}));
  Machine machine;
  CHECK(machine.map(0, mebibyte, reads | writes, true) == 0);
  CHECK(machine.command_register(6) == 0);
  machine.device->refuse_maps = number;
  CHECK(machine.map(0x100000000, 32 * mebibyte, reads | writes, true) == static_cast<std::uint32_t>(number));
  machine.device->refuse_maps = 0;
  check_gone(machine, reason);
  CHECK(machine.reasons.front().find("33554432 bytes of the client's memory at 0x100000000") != std::string::npos);
  CHECK(machine.device->windows.size() == 1);
  CHECK(machine.unmap(0, mebibyte) == 0); // the device was asked
  CHECK(machine.device->windows.empty());
}

TEST_CASE("a client that gives several descriptors for one window is told why it does not work") {
  Machine machine;
  const auto window = message(Command::dma_map, test::raw(DmaMapBody{32, reads | writes, 0, 0, mebibyte}));
  CHECK(machine.answer(window, {machine.memory.get(), machine.memory.get()}) == EINVAL);
  REQUIRE(machine.reasons.size() == 1);
  CHECK(machine.reasons.front().find("the client gave 2 descriptors") != std::string::npos);
  CHECK(machine.device->windows.empty());
  CHECK(machine.map(0, mebibyte, reads | writes, true) == 0); // nothing else has changed
  CHECK_FALSE(machine.error_signalled());
}

TEST_CASE("guest memory where the lender's IOMMU takes none fails the device, with the addresses") {
  Machine machine({{0, 0xfedfffff}, {0xfef00000, 0x7fffffffff}});
  machine.device->refuse_maps = EINVAL;
  CHECK(machine.map(0xfec00000, 4 * mebibyte, reads | writes, true) == EINVAL);
  REQUIRE(machine.reasons.size() == 1);
  CHECK(machine.reasons.front().find("nothing at 0xfee00000 to 0xfeefffff: keep") != std::string::npos);
}

TEST_CASE("a device that is lost is no matter of the client's memory") {
  Machine machine;
  machine.device->refuse_maps = GENERATE(ENODEV, ECANCELED);
  CHECK(machine.map(0, mebibyte, reads | writes, true) == static_cast<std::uint32_t>(machine.device->refuse_maps));
  CHECK(machine.reasons.empty());
}

TEST_CASE("ERR is signalled to a client that sets it after the device failed") {
  Machine machine;
  CHECK(machine.map(0, mebibyte, reads | writes, false) == 0);
  CHECK(machine.command_register(6) == 0);
  CHECK(machine.error_signalled());
  const SetIrqsBody error{20, irq_data_eventfd | irq_action_trigger, err, 0, 1};
  CHECK(machine.answer(message(Command::set_irqs, test::raw(error)), {machine.error_event.get()}) == 0);
  CHECK(machine.error_signalled());
}

TEST_CASE("a device that is lost signals ERR, one that is taken back REQ, each once, also to who asks later") {
  Machine machine;
  const Fd wanted(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const auto signals = [](const Fd& event) { return drain_eventfd(event.get()); };
  const auto set = [&machine](std::uint32_t index, const Fd& event) {
    const SetIrqsBody body{20, irq_data_eventfd | irq_action_trigger, index, 0, 1};
    return machine.answer(message(Command::set_irqs, test::raw(body)), {event.get()});
  };
  CHECK(set(req, wanted) == 0);
  machine.served->taken_back();
  machine.served->taken_back();
  CHECK((signals(wanted) == 1 && signals(machine.error_event) == 0));
  machine.served->lost();
  machine.served->lost();
  CHECK((signals(wanted) == 0 && signals(machine.error_event) == 1));
  CHECK((set(req, wanted) == 0 && signals(wanted) == 1));
  CHECK((set(err, machine.error_event) == 0 && signals(machine.error_event) == 1));
  CHECK(machine.device->irqs.empty());
}

TEST_CASE("an unmap is answered when the device has unmapped, and not before") {
  Machine machine;
  CHECK(machine.map(0, mebibyte, reads | writes, true) == 0);
  const bool failed = GENERATE(false, true);
  if (failed) {
    machine.device->refuse_maps = ENOMEM;
    CHECK(machine.map(mebibyte, mebibyte, reads | writes, true) == ENOMEM);
  }
  machine.device->manner = SmallDevice::Manner::later;
  REQUIRE(machine.raw->send(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, 0, mebibyte}))));
  CHECK(machine.raw->silent());
  REQUIRE(machine.device->waiting.size() == 1);
  machine.device->complete();
  const auto reply = machine.raw->receive();
  CHECK((reply && !reply->failed()));
}

TEST_CASE("the number of windows without a descriptor is bounded") {
  Machine machine;
  const auto map_at = [&machine](std::uint64_t number) { return machine.map(number * page, page, reads, false); };
  for (std::uint64_t number = 0; number < 65535; ++number) REQUIRE(map_at(number) == 0);
  CHECK(map_at(65535) == ENOSPC);
  CHECK(machine.unmap(0, page) == 0);
  CHECK(map_at(65535) == 0);
  CHECK(machine.works());
}
