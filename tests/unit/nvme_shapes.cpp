// Simulated NVMe controllers of other shapes than the usual, and the faults that can be injected into one.
#include "nvme_host.hpp"

#include "nvme/fault_commands.hpp"

#include <thread>

using namespace smartio;
using namespace smartio::testing;
namespace admin_opcode = smartio::sim::nvme::admin_opcode;
namespace opcode = smartio::sim::nvme::io_opcode;

namespace {

std::shared_ptr<nvme::Store> disk(std::uint64_t bytes = 4 << 20) {
  return std::make_shared<nvme::FileStore>(nvme::FileStore::from_fd(make_memfd("disk", bytes).value(), 512).value());
}

struct Shaped : NvmeHost {
  explicit Shaped(const nvme::Shape& shape = {}, std::uint32_t namespaces = 1) : NvmeHost(disk(), shape, namespaces) {
    enable();
  }
  Status on(std::uint32_t nsid, std::uint8_t code, std::uint64_t lba, std::uint64_t prp1 = data) {
    if (io_queue.entries == 0) io_queue = create_pair(1);
    SubmissionEntry entry{};
    entry.opcode = code;
    entry.nsid = nsid;
    entry.prp1 = prp1;
    entry.cdw10 = static_cast<std::uint32_t>(lba);
    return run(io_queue, entry).status;
  }
  Status identify(std::uint32_t what, std::uint32_t nsid) {
    SubmissionEntry entry{};
    entry.opcode = admin_opcode::identify;
    entry.nsid = nsid;
    entry.cdw10 = what;
    entry.prp1 = data;
    return admin(entry).status;
  }
  void inject(std::string_view line) {
    const auto changed = nvme::changed_by({*faults, {}}, line);
    REQUIRE(changed);
    *faults = changed->controller;
  }
  bool has_capability(std::uint64_t id) {
    for (std::uint64_t at = read(7, 0x34, 1); at != 0; at = read(7, at + 1, 1))
      if (read(7, at, 1) == id) return true;
    return false;
  }
};

} // namespace

TEST_CASE("doorbells are as far apart as CAP.DSTRD says, and what follows them in BAR 0 makes room") {
  const unsigned stride = GENERATE(0U, 1U, 3U, 7U, 15U);
  Shaped host({.doorbell_stride = stride});
  CHECK((host.reg(4) & 0xf) == stride);
  const auto info = std::get<vfio::RegionInfo>(host.request(vfio::GetRegionInfo{0}).value());
  CHECK(info.areas.at(0).size >= (std::uint64_t{4} << stride) * 130);
  CHECK(std::has_single_bit(info.size));
  const std::uint64_t table = host.read(7, 0x54, 4) & ~7ULL, pending = host.read(7, 0x58, 4) & ~7ULL;
  CHECK(table == info.areas[0].offset + info.areas[0].size);
  CHECK((pending >= table + 65 * 16 && pending + 16 <= info.size));
  CHECK(host.reg(static_cast<std::uint32_t>(table) + 64 * 16 + 12) == 1); // the last vector is masked
  auto first = host.create_pair(1), last = host.create_pair(64);
  SubmissionEntry flush{};
  flush.nsid = 1;
  CHECK(host.run(last, flush).status == Status::success);
  CHECK(host.run(first, flush).status == Status::success);
}

TEST_CASE("between strided doorbells there is none") {
  Shaped host({.doorbell_stride = 2});
  SubmissionEntry request{};
  request.opcode = admin_opcode::async_event;
  const auto id = host.put(host.admin_queue, request);
  host.ring(host.admin_queue);
  host.poll();
  host.set_reg(0x1004, 5); // within the admin queue's stride
  host.poll();
  const auto ended = host.take(host.admin_queue).value();
  CHECK((ended.command_id == id && ended.result == 0x00010000));
}

TEST_CASE("queues are as long as CAP.MQES allows") {
  const std::uint32_t entries = GENERATE(2U, 64U, 65536U);
  Shaped host({.queue_entries = entries});
  CHECK((host.reg(0) & 0xffff) == entries - 1);
  SubmissionEntry create{};
  create.opcode = admin_opcode::create_cq;
  create.cdw11 = 1;
  create.prp1 = NvmeHost::data;
  create.cdw10 = (entries - 1) << 16 | 1;
  CHECK(host.admin(create).status == Status::success);
  if (entries == 65536) return; // no larger number fits into the field
  create.cdw10 = entries << 16 | 2;
  CHECK(host.admin(create).status == Status::invalid_queue_size);
}

TEST_CASE("a function has the MSI-X vectors it was given, to the last") {
  const unsigned vectors = GENERATE(1U, 2U, 2048U);
  Shaped host({.vectors = vectors});
  CHECK(host.read(7, 0x52, 2) == vectors - 1);
  CHECK(std::get<vfio::IrqInfo>(host.request(vfio::GetIrqInfo{vfio::msix}).value()).count == vectors);
  const Fd last = host.assign_vector(vectors - 1);
  auto queue = host.create_pair(1, 16, vectors - 1);
  drain_eventfd(last.get());
  SubmissionEntry entry{};
  entry.nsid = 1;
  CHECK(host.run(queue, entry).status == Status::success);
  CHECK(drain_eventfd(last.get()) > 0);
  entry.opcode = admin_opcode::create_cq;
  entry.cdw10 = 15 << 16 | 2;
  entry.cdw11 = 3 | vectors << 16;
  entry.prp1 = NvmeHost::data;
  CHECK(host.admin(entry).status == Status::invalid_vector);
}

TEST_CASE("a function without MSI-X has one line for all its queues") {
  Shaped host({.vectors = 0});
  CHECK_FALSE(host.has_capability(0x11));
  CHECK(host.has_capability(0x10));
  CHECK(std::get<vfio::IrqInfo>(host.request(vfio::GetIrqInfo{vfio::msix}).value()).count == 0);
  host.write(vfio::config_region, 0x04, 2, 0x0006);
  const Fd line = make_eventfd().value();
  vfio::SetIrqs set{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::intx, 0, 1, {}, {}};
  set.eventfds.push_back(line.duplicate().value());
  REQUIRE(host.request(std::move(set)));
  host.create_pair(1, 16, 0);
  host.poll();
  CHECK(drain_eventfd(line.get()) > 0);
  SubmissionEntry entry{};
  entry.opcode = admin_opcode::create_cq;
  entry.cdw10 = 15 << 16 | 2;
  entry.cdw11 = 3 | 1 << 16;
  entry.prp1 = NvmeHost::data;
  CHECK(host.admin(entry).status == Status::invalid_vector);
}

TEST_CASE("namespaces lie one after the other and have each its own identity") {
  Shaped host({}, 3);
  constexpr std::uint64_t each = 8192 / 3;
  REQUIRE(host.identify(1, 0) == Status::success);
  CHECK(host.load<std::uint32_t>(NvmeHost::data + 516) == 3);
  REQUIRE(host.identify(2, 1) == Status::success);
  CHECK((host.load<std::uint32_t>(NvmeHost::data) == 2 && host.load<std::uint32_t>(NvmeHost::data + 4) == 3));
  CHECK(host.load<std::uint32_t>(NvmeHost::data + 8) == 0);
  std::vector<std::vector<std::byte>> uuids;
  for (std::uint32_t nsid = 1; nsid <= 3; ++nsid) {
    REQUIRE(host.identify(0, nsid) == Status::success);
    CHECK(host.load<std::uint64_t>(NvmeHost::data) == each);
    REQUIRE(host.identify(3, nsid) == Status::success);
    const auto uuid = host.bytes(NvmeHost::data + 4, 16);
    uuids.emplace_back(uuid.begin(), uuid.end());
    CHECK(std::ranges::count(uuids, uuids.back()) == 1);
  }
  CHECK(host.identify(0, 4) == Status::invalid_namespace);
  for (std::uint32_t nsid = 1; nsid <= 3; ++nsid) {
    std::memset(host.at(NvmeHost::data), static_cast<int>(nsid), 512);
    CHECK(host.on(nsid, opcode::write, each - 1) == Status::success);
    CHECK(host.on(nsid, opcode::write, 0) == Status::success);
    CHECK(host.on(nsid, opcode::write, each) == Status::lba_out_of_range);
    CHECK(host.on(nsid, opcode::flush, 0) == Status::success);
  }
  for (std::uint32_t nsid = 1; nsid <= 3; ++nsid) {
    for (const std::uint64_t lba : {std::uint64_t{0}, each - 1}) {
      CHECK(host.on(nsid, opcode::read, lba) == Status::success);
      CHECK(*host.at(NvmeHost::data) == static_cast<std::byte>(nsid));
    }
  }
  CHECK(host.on(2, opcode::write_zeroes, 0) == Status::success);
  CHECK(host.on(1, opcode::read, 0) == Status::success);
  CHECK(*host.at(NvmeHost::data) == std::byte{1});
  CHECK(host.on(2, opcode::read, 0) == Status::success);
  CHECK(*host.at(NvmeHost::data) == std::byte{0});
  for (const std::uint8_t code : {opcode::read, opcode::write, opcode::flush, opcode::dataset_management})
    CHECK(host.on(4, code, 0) == Status::invalid_namespace);
}

TEST_CASE("lines of faults that are not known change nothing") {
  for (const char* line : {"", "interrupts", "interrupts lose ", "INTERRUPTS LOSE", "completions delay",
                           "completions delay ", "completions delay x", "completions delay -1", "completions delay 1 ",
                           "completions delay 60001", "writes hold", "flushes no-space", "controller"})
    CHECK_FALSE(nvme::changed_by({}, line));
  CHECK(nvme::changed_by({}, "completions delay 60000"));
  CHECK(nvme::changed_by({}, "writes no-space")->store.writes == ENOSPC);
  CHECK(nvme::changed_by({}, "reads fail")->store.reads == EIO);
}

TEST_CASE("completions are held, or late") {
  Shaped host;
  auto queue = host.create_pair(1);
  host.inject("completions hold");
  SubmissionEntry flush{};
  flush.nsid = 1;
  host.put(queue, flush);
  host.ring(queue);
  host.poll();
  CHECK_FALSE(host.take(queue));
  host.inject("completions pass");
  host.poll();
  CHECK(host.take(queue));
  host.inject("completions delay 20");
  const auto began = std::chrono::steady_clock::now();
  host.put(queue, flush);
  host.ring(queue);
  while (!host.take(queue)) host.poll();
  CHECK(std::chrono::steady_clock::now() - began >= std::chrono::milliseconds(20));
}

TEST_CASE("an interrupt that is lost does not come later, the next one does") {
  Shaped host;
  const Fd vector = host.assign_vector(1);
  auto queue = host.create_pair(1, 16, 1);
  SubmissionEntry flush{};
  flush.nsid = 1;
  host.inject("interrupts lose");
  host.run(queue, flush);
  host.inject("interrupts pass");
  host.poll();
  CHECK(drain_eventfd(vector.get()) == 0);
  host.run(queue, flush);
  CHECK(drain_eventfd(vector.get()) == 1);
}

TEST_CASE("a controller that failed says so until it is reset, and does nothing") {
  Shaped host;
  auto queue = host.create_pair(1);
  host.inject("controller fails");
  CHECK(host.reg(0x1c) == 3);
  SubmissionEntry flush{};
  flush.nsid = 1;
  host.put(queue, flush);
  host.ring(queue);
  host.poll();
  CHECK_FALSE(host.take(queue));
  host.inject("controller works");
  CHECK(host.reg(0x1c) == 3);
  host.disable();
  CHECK(host.reg(0x1c) == 0);
  host.enable();
}

TEST_CASE("a controller that was pulled out reads as ones everywhere and does nothing") {
  Shaped host;
  auto queue = host.create_pair(1);
  host.inject("controller gone");
  CHECK(host.reg(0, 8) == UINT64_MAX);
  CHECK(host.reg(0x1c) == UINT32_MAX);
  CHECK(host.reg(0x2000) == UINT32_MAX);
  CHECK(host.read(vfio::config_region, 0, 4) == UINT32_MAX);
  host.set_reg(0x14, 0);
  SubmissionEntry flush{};
  flush.nsid = 1;
  host.put(queue, flush);
  host.ring(queue);
  CHECK_FALSE(host.function->poll());
  CHECK_FALSE(host.function->needs_polling());
  CHECK_FALSE(host.take(queue));
}

TEST_CASE("a store counts what it is asked for, and fails as it is told") {
  nvme::FaultyStore store(
      std::make_unique<nvme::FileStore>(nvme::FileStore::from_fd(make_memfd("disk", 4096).value(), 512).value()));
  std::byte bytes[512]{};
  const auto write = [&store, &bytes](nvme::Store::Until until) {
    iovec piece{bytes, sizeof bytes};
    return store.write(0, std::span(&piece, 1), until);
  };
  using Flushes = nvme::StoreFaults::Flushes;
  CHECK(write(nvme::Store::Until::cached) == 0);
  CHECK(write(nvme::Store::Until::stable) == 0);
  CHECK(store.flush() == 0);
  store.set_faults({.writes = ENOSPC, .flushes = Flushes::failing});
  CHECK((write(nvme::Store::Until::cached) == ENOSPC && store.zero(0, 1, true) == ENOSPC && store.flush() == EIO));
  store.set_faults({.reads = EIO, .flushes = Flushes::lost});
  iovec piece{bytes, sizeof bytes};
  CHECK((store.read(0, std::span(&piece, 1)) == EIO && store.flush() == 0));
  const auto counters = store.counters();
  CHECK((counters.reads == 1 && counters.writes == 3 && counters.stable_writes == 1));
  CHECK((counters.flushes == 3 && counters.failed_flushes == 1 && counters.lost_flushes == 1));
}

TEST_CASE("a flush that is held ends when it is let go") {
  nvme::FaultyStore store(
      std::make_unique<nvme::FileStore>(nvme::FileStore::from_fd(make_memfd("disk", 4096).value(), 512).value()));
  store.set_faults({.flushes = nvme::StoreFaults::Flushes::held});
  std::atomic<bool> ended = false;
  std::jthread flushing([&store, &ended] {
    store.flush();
    ended = true;
  });
  CHECK_FALSE(ended);
  store.set_faults({});
  flushing.join();
  CHECK(ended);
}
