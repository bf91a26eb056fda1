// The simulated bridge's windows: where accesses come out, what keeps them from it, messages to the hosts.
#include "ntb_pair.hpp"

#include <algorithm>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::testing;
namespace offset = ntb::register_offset;

namespace {

constexpr std::uint64_t size = NtbHost::window_bytes;
constexpr std::uint32_t bar2 = 2, bar4 = 4;
constexpr std::uint64_t nothing = UINT64_MAX;

std::uint64_t at(const NtbHost& host, std::uint64_t offset) {
  std::uint64_t value = 0;
  std::memcpy(&value, host.memory().data() + offset, sizeof value);
  return value;
}

Bytes pattern(std::size_t bytes) {
  Bytes data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 13 + 1);
  return data;
}

/// Both windows of a lead to b's memory.
struct Open : NtbPair {
  explicit Open(const char* chip = "gen4") : NtbPair(chip) {
    b.open_window(0, NtbHost::memory_at);
    b.open_window(1, NtbHost::memory_at + size);
  }
  bool closed() {
    std::memset(b.memory().data(), 0x5a, 8);
    a.write(bar2, 0, 8, 0x77);
    return a.read(bar2, 0, 8) == nothing && at(b, 0) == 0x5a5a5a5a5a5a5a5a;
  }
};

} // namespace

TEST_CASE("each window of each end leads to the other host's memory") {
  NtbPair pair(any_chip());
  for (auto [here, there] : {std::pair(&pair.a, &pair.b), std::pair(&pair.b, &pair.a)}) {
    there->open_window(0, NtbHost::memory_at);
    there->open_window(1, NtbHost::memory_at + size);
    for (const unsigned window : {0U, 1U}) {
      const std::uint32_t region = 2 + 2 * window;
      for (const unsigned width : {1U, 2U, 4U, 8U}) {
        here->write(region, 64 * width, width, 0x1122334455667788);
        const std::uint64_t kept = at(*there, window * size + 64 * width);
        CHECK(kept == (0x1122334455667788 & (~std::uint64_t{0} >> (64 - 8 * width))));
        CHECK(here->read(region, 64 * width, width) == kept);
      }
      const Bytes data = pattern(size);
      REQUIRE(here->request(vfio::RegionWrite{region, 0, data}));
      CHECK(std::ranges::equal(there->memory().subspan(window * size, size), data));
      CHECK(std::get<vfio::Data>(here->request(vfio::RegionRead{region, 0, size}).value()).bytes == data);
    }
  }
  CHECK(pair.bridge.counters(Side::a).written_bytes == 2 * (size + 15));
  CHECK(pair.bridge.counters(Side::a).unanswered_reads == 0);
  CHECK(pair.bridge.counters(Side::a).messages == 0);
}

TEST_CASE("a window is closed until its limit lies in its BAR, wherever that is") {
  NtbPair pair(any_chip());
  const auto closed = [&pair] { return pair.a.read(bar2, 0, 8) == nothing; };
  pair.b.set_reg(offset::base_index, 16, 2); // where there is one
  pair.b.set_reg(offset::translation_base, NtbHost::memory_at, 8);
  if (pair.bridge.chip().generation == 3) pair.b.set_reg(offset::secondary_limit, size, 8);
  CHECK(closed());
  for (const std::uint64_t limit : {std::uint64_t{0x2000000000000000}, NtbHost::bar2_at, NtbHost::bar2_at - 0x1000,
                                    NtbHost::bar2_at + size + 0x1000, NtbHost::bar4_at + size}) {
    pair.b.set_reg(offset::limit, limit, 8);
    CHECK(closed());
  }
  pair.b.set_reg(offset::limit, NtbHost::bar2_at + 0x1000, 8);
  CHECK_FALSE(closed());
  pair.b.write(vfio::config_region, 0x18, 8, NtbHost::bar2_at + 0x10000000);
  CHECK(closed());
}

TEST_CASE("no byte behind the limit is reached, not even by an access that begins before it") {
  Open pair(any_chip());
  pair.b.open_window(0, NtbHost::memory_at, 0x1000);
  pair.a.write(bar2, 0xff8, 8, 1);
  CHECK(at(pair.b, 0xff8) == 1);
  pair.a.write(bar2, 0xffc, 8, nothing);
  pair.a.write(bar2, 0x1000, 8, nothing);
  CHECK(at(pair.b, 0xff8) == 1);
  CHECK(at(pair.b, 0x1000) == 0);
  CHECK(pair.a.read(bar2, 0xffc, 8) == nothing);
  CHECK(pair.a.read(bar2, 0x1000, 1) == 0xff);
  CHECK(pair.bridge.counters(Side::a).dropped_writes == 2);
  CHECK(pair.bridge.counters(Side::a).unanswered_reads == 2);
  if (pair.bridge.chip().generation == 3) CHECK(pair.b.reg(offset::memory_misses, 2) == 4);
}

TEST_CASE("Ice Lake's windows pass as many address bits as their index says, and none before it is written") {
  Open pair("gen4");
  CHECK(pair.a.read(bar2, size - 8, 8) == 0);
  pair.b.set_reg(offset::base_index, 0, 2);
  CHECK(pair.closed());
  CHECK(pair.a.read(bar4, 0, 8) == 0); // has its own
  pair.b.set_reg(offset::base_index, 12, 2);
  CHECK(pair.a.read(bar2, 0xff8, 8) == 0);
  CHECK(pair.a.read(bar2, 0x2000, 8) == nothing);
  pair.a.write(bar2, 0x2000, 8, 7);
  CHECK(at(pair.b, 0x2000) == 0);
}

TEST_CASE("a window that either end does not make coherent writes nothing that processors see") {
  Open pair(any_chip());
  const auto seen = [&pair] {
    pair.b.memory()[0] = std::byte{0};
    pair.a.write(bar2, 0, 1, 1);
    return pair.b.memory()[0] == std::byte{1};
  };
  CHECK(seen());
  pair.b.set_reg(offset::control, 0x154 & ~0x4U); // from the link, window 0
  CHECK_FALSE(seen());
  pair.b.set_reg(offset::control, 0x4);
  CHECK(seen());
  pair.a.set_reg(offset::control, 0x154 & ~0x10U); // to the link, window 0
  CHECK_FALSE(seen());
  pair.a.set_reg(offset::control, 0x10);
  CHECK(seen());
  pair.a.write(bar4, 0, 1, 1); // window 1 lacks both
  CHECK(at(pair.b, size) == 0);
}

TEST_CASE("generation 3 has a limit and a command register on the secondary side as well") {
  Open pair("gen3");
  pair.b.set_reg(offset::secondary_limit, 0x1000, 8);
  CHECK(pair.a.read(bar2, 0x1000, 8) == nothing);
  CHECK(pair.a.read(bar2, 0xff8, 8) == 0);
  pair.b.set_reg(offset::secondary_command, 0x4, 2); // no memory space
  CHECK(pair.a.read(bar2, 0, 8) == nothing);
  pair.b.set_reg(offset::secondary_command, 0x6, 2);
  pair.a.set_reg(offset::secondary_command, 0x2, 2); // no bus master
  CHECK(pair.a.read(bar2, 0, 8) == nothing);
}

TEST_CASE("nothing is reached without the target's bus master, without the link, or without the other host") {
  Open pair(any_chip());
  REQUIRE_FALSE(pair.closed());
  pair.b.set_bus_master(false);
  CHECK(pair.closed());
  pair.b.set_bus_master(true);
  CHECK_FALSE(pair.closed());
  pair.a.want_link(false);
  CHECK(pair.closed());
  pair.a.want_link(true);
  CHECK_FALSE(pair.closed());
  pair.bridge.detach(Side::b);
  CHECK(pair.closed());
}

TEST_CASE("the permissions of the DMA window hold") {
  Open pair(any_chip());
  for (const auto access : {Access::read, Access::write}) {
    REQUIRE(pair.b.request(vfio::DmaUnmap{Iova{NtbHost::memory_at}, NtbHost::memory_bytes}));
    REQUIRE(pair.b.map(NtbHost::memory_at, NtbHost::memory_bytes, access, pair.b.memory_fd.get()) == 0);
    std::memset(pair.b.memory().data(), 0x5a, 8);
    pair.a.write(bar2, 0, 4, 0x77);
    CHECK((at(pair.b, 0) == 0x5a5a5a5a00000077) == (access == Access::write));
    CHECK((pair.a.read(bar2, 0, 8) == nothing) == (access == Access::write));
  }
  CHECK(pair.b.reads.empty()); // nor was the host asked
}

TEST_CASE("a DMA window that is gone is not reached; its range may end where the addresses do") {
  Open pair(any_chip());
  REQUIRE(pair.b.map(0xffffffffffff0000, 0x10000, Access::read_write, pair.b.memory_fd.get()) == 0);
  const std::uint64_t from = 0xfef00000;
  CHECK(std::get<vfio::Unmapped>(pair.b.request(vfio::DmaUnmap{Iova{from}, 0 - from}).value()).size == 0x10000);
  CHECK_FALSE(pair.closed());
  REQUIRE(pair.b.request(vfio::DmaUnmap{Iova{0}, 0, true}));
  const auto reply = pair.a.ask(vfio::RegionRead{bar2, 0, 8});
  CHECK(pair.b.reads.size() == 1); // the host itself may still know what is there
  CHECK_FALSE(reply->has_value());
}

TEST_CASE("a translation that would pass the end of the addresses leads nowhere") {
  NtbPair pair("gen4-spr");
  pair.b.open_window(0, 0xfffffffffffff000);
  REQUIRE(pair.b.map(0xfffffffffffff000, 0x1000, Access::read_write, pair.b.memory_fd.get()) == 0);
  pair.a.write(bar2, 0xff8, 8, 5);
  CHECK(at(pair.b, 0xff8) == 5);
  CHECK(pair.a.read(bar2, 0x1000, 8) == nothing);
  CHECK(pair.a.read(bar2, 0xffc, 8) == nothing);
  CHECK(pair.b.reads.empty());
}

TEST_CASE("memory that is cut off under its window reads as ones") {
  NtbPair pair(any_chip());
  const Fd file(::memfd_create("cut", MFD_CLOEXEC));
  REQUIRE(::ftruncate(file.get(), size) == 0);
  REQUIRE(pair.b.map(0x100000, size, Access::read_write, file.get()) == 0);
  pair.b.open_window(0, 0x100000);
  pair.a.write(bar2, 0, 8, 3);
  CHECK(pair.a.read(bar2, 0, 8) == 3);
  REQUIRE(::ftruncate(file.get(), 0) == 0);
  CHECK(pair.a.read(bar2, 0, 8) == nothing);
  pair.a.write(bar2, 0, 8, 3);
  CHECK(pair.bridge.counters(Side::a).dropped_writes == 1);
}

namespace {

/// A window of a to where b has no descriptor: 64 KiB known at 0x100000, and everything else.
struct ByMessage : NtbPair {
  explicit ByMessage(const char* chip = "gen4") : NtbPair(chip) {
    REQUIRE(b.map(0x100000, size, Access::read_write, -1) == 0);
    b.open_window(0, 0x100000);
    b.open_window(1, 0x700000);
    a.open_window(1, 0x700000);
  }
  static void answer(std::deque<NtbHost::Message>& from, std::uint64_t value) {
    REQUIRE_FALSE(from.empty());
    auto message = std::move(from.front());
    from.pop_front();
    Bytes data(message.bytes);
    if (!data.empty()) std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
    if (message.data.empty())
      message.done(vfio::Data{std::move(data)});
    else
      message.done(vfio::Done{});
  }
};

std::uint64_t value_of(const std::shared_ptr<std::optional<vfio::Reply>>& reply) {
  REQUIRE(reply->has_value());
  const auto& bytes = std::get<vfio::Data>(reply->value().value()).bytes;
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
  return value;
}

} // namespace

TEST_CASE("what has no descriptor is read and written by messages, mapped or not") {
  ByMessage pair(any_chip());
  for (const std::uint32_t region : {bar2, bar4}) {
    const std::uint64_t base = region == bar2 ? 0x100000 : 0x700000;
    const auto reply = pair.a.ask(vfio::RegionRead{region, 0x10, 8});
    CHECK_FALSE(reply->has_value());
    REQUIRE(pair.b.reads.size() == 1);
    CHECK(pair.b.reads[0].iova == static_cast<Iova>(base + 0x10));
    CHECK(pair.b.reads[0].bytes == 8);
    pair.answer(pair.b.reads, 0x1234);
    CHECK(value_of(reply) == 0x1234);
    pair.a.write(region, 0x20, 4, 0x99); // posted: complete at once
    REQUIRE(pair.b.writes.size() == 1);
    CHECK(pair.b.writes[0].iova == static_cast<Iova>(base + 0x20));
    CHECK(pair.b.writes[0].data == Bytes{std::byte{0x99}, {}, {}, {}});
    pair.answer(pair.b.writes, 0);
  }
}

TEST_CASE("an access that spans both kinds of memory is put together; no message asks for more than 64 KiB") {
  ntb::Bridge bridge(*ntb::find_chip("gen4"), 0x100000);
  NtbHost a(bridge, Side::a), b(bridge, Side::b);
  a.want_link(true);
  b.want_link(true);
  b.open_window(0, NtbHost::memory_at, 0x100000);
  std::ranges::copy(pattern(8), b.memory().last(8).begin());
  const std::uint32_t bytes = NtbHost::memory_bytes + 0x18000;
  const auto reply = a.ask(vfio::RegionRead{bar2, 0, bytes});
  for (const std::uint32_t piece : {0x10000U, 0x8000U}) {
    REQUIRE(b.reads.size() == 1);
    CHECK(b.reads[0].bytes == piece);
    ByMessage::answer(b.reads, piece);
  }
  REQUIRE(reply->has_value());
  const auto& data = std::get<vfio::Data>(reply->value().value()).bytes;
  REQUIRE(data.size() == bytes);
  CHECK(std::ranges::equal(std::span(data).subspan(NtbHost::memory_bytes - 8, 8), pattern(8)));
  CHECK(data[NtbHost::memory_bytes + 2] == std::byte{1});
  CHECK(data[NtbHost::memory_bytes + 0x10001] == std::byte{0x80});
  REQUIRE(a.request(vfio::RegionWrite{bar2, 0, Bytes(bytes)}));
  CHECK(b.writes.size() == 2);
}

TEST_CASE("a message asks for nothing that has a descriptor") {
  NtbPair pair("gen4-spr");
  pair.b.open_window(0, NtbHost::memory_at - 0x1000);
  std::ranges::copy(pattern(8), pair.b.memory().begin());
  const auto reply = pair.a.ask(vfio::RegionRead{bar2, 0xff8, 16});
  REQUIRE(pair.b.reads.size() == 1);
  CHECK(pair.b.reads[0].bytes == 8);
  ByMessage::answer(pair.b.reads, 0x1234);
  CHECK(value_of(reply) == 0x1234);
  CHECK(std::ranges::equal(std::span(std::get<vfio::Data>(reply->value().value()).bytes).last(8), pattern(8)));
}

TEST_CASE("what the host answers with an error, or with the wrong number of bytes, reads as ones") {
  ByMessage pair(any_chip());
  auto reply = pair.a.ask(vfio::RegionRead{bar2, 0, 8});
  std::exchange(pair.b.reads, {})[0].done(std::unexpected(ENODEV));
  CHECK(value_of(reply) == nothing);
  reply = pair.a.ask(vfio::RegionRead{bar2, 0, 8});
  std::exchange(pair.b.reads, {})[0].done(vfio::Data{Bytes(7)});
  CHECK(value_of(reply) == nothing);
  pair.a.write(bar2, 0, 8, 1);
  std::exchange(pair.b.writes, {})[0].done(std::unexpected(ENODEV));
  CHECK(pair.bridge.counters(Side::b).refused_writes == 1);
}

TEST_CASE("two hosts that read each other do not wait for each other: the first read is ones, and counted") {
  ByMessage pair(any_chip());
  const auto first = pair.a.ask(vfio::RegionRead{bar4, 0, 8});
  REQUIRE_FALSE(first->has_value());
  const auto second = pair.b.ask(vfio::RegionRead{bar4, 0, 8});
  CHECK(value_of(first) == nothing);
  REQUIRE_FALSE(second->has_value());
  CHECK(pair.bridge.counters(Side::a).crossed_reads == 1);
  pair.answer(pair.b.reads, 1); // late, for nobody
  pair.answer(pair.a.reads, 2);
  CHECK(value_of(second) == 2);
  CHECK(pair.bridge.counters(Side::b).crossed_reads == 0);
}

TEST_CASE("reads of memory with a descriptor, registers and posted writes cross without loss") {
  ByMessage pair(any_chip());
  pair.a.open_window(0, NtbHost::memory_at);
  const auto first = pair.a.ask(vfio::RegionRead{bar4, 0, 8});
  pair.b.write(bar2, 0, 8, 4);
  CHECK(pair.b.read(bar2, 0, 8) == 4);
  CHECK(pair.b.reg(offset::control) == 0x154);
  pair.b.write(bar4, 0, 8, 4);
  REQUIRE(pair.a.map(0x500000, size, Access::write, pair.a.memory_fd.get()) == 0);
  pair.a.open_window(0, 0x500000);
  CHECK(pair.b.read(bar2, 0, 8) == nothing); // not allowed, so nobody was asked
  REQUIRE_FALSE(first->has_value());
  pair.answer(pair.b.reads, 3);
  CHECK(value_of(first) == 3);
  CHECK(pair.bridge.counters(Side::a).crossed_reads == 0);
}

TEST_CASE("what a host waits for is ones when the other goes, or the link, or its own reset comes") {
  const int end = GENERATE(0, 1, 2, 3);
  ByMessage pair(any_chip());
  const auto reply = pair.a.ask(vfio::RegionRead{bar2, 0, 8});
  REQUIRE_FALSE(reply->has_value());
  if (end == 0) pair.bridge.detach(Side::b);
  if (end == 1) pair.b.want_link(false);
  if (end == 2) REQUIRE(pair.b.request(vfio::Reset{}));
  if (end == 3) REQUIRE(pair.a.request(vfio::Reset{}));
  CHECK(value_of(reply) == nothing);
  pair.answer(pair.b.reads, 7); // too late
}

TEST_CASE("a doorbell does not overtake data that goes by message, and does not wait for later data") {
  ByMessage pair(any_chip());
  if (pair.bridge.chip().generation == 4) pair.b.set_reg(offset::slot_status, 0x100, 2);
  pair.b.set_reg(offset::interrupt_status, std::uint64_t{1} << 32, 8);
  pair.a.write(bar2, 0, 8, 1);
  pair.a.write(bar2, 8, 8, 2);
  pair.a.set_reg(offset::doorbells, 1);
  pair.a.write(bar2, 16, 8, 3);
  for (int i = 0; i < 2; ++i) {
    CHECK(pair.b.reg(offset::interrupt_status, 8) == 0);
    pair.answer(pair.b.writes, 0);
  }
  CHECK(pair.b.reg(offset::interrupt_status, 8) == 1);
}

TEST_CASE("a host that writes faster than the other takes it is slowed down, but two of them never block each other") {
  ByMessage pair(any_chip());
  std::shared_ptr<std::optional<vfio::Reply>> last;
  std::size_t written = 0;
  for (; written < 100000 && (!last || last->has_value()); ++written)
    last = pair.a.ask(vfio::RegionWrite{bar4, 0, Bytes(8)});
  CHECK(written < 100000);
  for (std::size_t i = 0; i < written; ++i) pair.b.write(bar4, 0, 8, 1); // all complete
  while (!last->has_value()) pair.answer(pair.b.writes, 0);
  CHECK(pair.b.writes.size() > 1); // it need not wait until all is taken
}

TEST_CASE("nothing more happens in a bridge that is gone") {
  auto bridge = std::make_unique<ntb::Bridge>(*ntb::find_chip("gen4"), size);
  NtbHost a(*bridge, Side::a), b(*bridge, Side::b);
  a.want_link(true);
  b.want_link(true);
  b.open_window(0, 0x700000);
  a.write(bar2, 0, 8, 1);
  a.set_reg(offset::doorbells, 1);
  const auto reply = a.ask(vfio::RegionRead{bar2, 0, 8});
  bridge.reset();
  CHECK(value_of(reply) == nothing);
  ByMessage::answer(b.writes, 0);
  ByMessage::answer(b.reads, 0);
  CHECK(a.request(vfio::GetInfo{}).error() == ENODEV);
}
