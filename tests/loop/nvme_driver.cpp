// The NVMe driver on the simulated controller, in its shapes and with its faults; and against controllers that break
// the rules as that one cannot: nothing a register, a completion or an identify page says may do more than fail it.
#include "driver.hpp"

#include "bench.hpp"
#include "catch.hpp"
#include "checks.hpp"
#include "simulated_disk.hpp"
#include "test_device.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace smartio;
using namespace testing;

namespace {

constexpr std::uint64_t usable_cap = 63 | 1ULL << 16 | 1ULL << 24 | 1ULL << 37; // 64 entries, 500 ms, NVM command set

// As much of a controller as the driver needs, on the registers of a TestDevice; doorbells are trapped.
struct Controller {
  TestDevice& device;
  bool becomes_ready = true, stops = true;
  std::uint16_t id_change = 0, queue_change = 0;
  std::array<std::byte, 4096> controller_page{}, namespace_page{};
  unsigned sq_head[2] = {}, cq_tail[2] = {};
  std::uint64_t sq[2] = {}, cq[2] = {};
  unsigned entries[2] = {};

  explicit Controller(TestDevice& on) : device(on) {
    set<std::uint64_t>(nvme::reg_cap, usable_cap);
    set<std::uint32_t>(nvme::reg_vs, 0x10400);
    put<std::uint32_t>(controller_page, 516, 1);
    put<std::uint64_t>(namespace_page, 0, 1000);
    put<std::uint32_t>(namespace_page, 128, 9U << 16);
  }

  template <class T> void set(std::size_t reg, T value) {
    std::memcpy(device.bar0.bytes().data() + reg, &value, sizeof value);
  }
  template <class T> T get(std::size_t reg) {
    T value;
    std::memcpy(&value, device.bar0.bytes().data() + reg, sizeof value);
    return value;
  }
  template <class T> static void put(std::array<std::byte, 4096>& page, std::size_t offset, T value) {
    std::memcpy(page.data() + offset, &value, sizeof value);
  }

  std::byte* at(std::uint64_t iova, std::size_t bytes) {
    for (auto& [start, window] : device.windows)
      if (iova >= start && in_range(iova - start, bytes, window.size))
        return window.memory.bytes().data() + (iova - start);
    return nullptr;
  }

  void written(const vfio::RegionWrite& write) {
    if (write.region != 0) return;
    if (write.offset == nvme::reg_cc) configure();
    if (write.offset == nvme::doorbell_base) run(0);
    if (write.offset == nvme::doorbell_base + 8) run(1);
  }

  void configure() {
    const bool enable = (get<std::uint32_t>(nvme::reg_cc) & nvme::cc_enable) != 0;
    if (enable ? becomes_ready : stops) set<std::uint32_t>(nvme::reg_csts, enable ? nvme::csts_ready : 0);
    sq[0] = get<std::uint64_t>(nvme::reg_asq);
    cq[0] = get<std::uint64_t>(nvme::reg_acq);
    entries[0] = (get<std::uint32_t>(nvme::reg_aqa) & 0xfff) + 1;
  }

  void run(unsigned queue) {
    const auto tail = get<std::uint32_t>(nvme::doorbell_base + 8 * queue);
    for (unsigned& head = sq_head[queue]; head != tail; head = (head + 1) % entries[queue]) {
      nvme::Command command;
      std::memcpy(&command, at(sq[queue] + head * sizeof command, sizeof command), sizeof command);
      if (queue == 0) admin(command);
      complete(queue, command.id);
    }
  }

  void admin(const nvme::Command& command) {
    if (command.opcode == nvme::admin_identify) {
      const auto& page = command.cdw10 == nvme::identify_controller ? controller_page : namespace_page;
      std::memcpy(at(command.prp1, page.size()), page.data(), page.size());
    }
    if (command.opcode == nvme::admin_create_cq) cq[1] = command.prp1;
    if (command.opcode == nvme::admin_create_sq) {
      sq[1] = command.prp1;
      entries[1] = (command.cdw10 >> 16) + 1;
    }
  }

  void complete(unsigned queue, std::uint16_t id) {
    const unsigned index = cq_tail[queue] % entries[queue];
    const unsigned phase = cq_tail[queue]++ / entries[queue] % 2 == 0 ? 1 : 0;
    nvme::Completion completion{
        .result = 0, .reserved = 0, .sq_head = 0, .sq_id = static_cast<std::uint16_t>(queue), .id = id, .status = 0};
    if (queue == 1) {
      completion.id = static_cast<std::uint16_t>(id + id_change);
      completion.sq_id = static_cast<std::uint16_t>(queue + queue_change);
    }
    completion.status = static_cast<std::uint16_t>(completion.status | phase);
    std::memcpy(at(cq[queue] + index * sizeof completion, sizeof completion), &completion, sizeof completion);
  }
};

// A server whose device is a Controller, changed by `twist` before the driver sees it.
struct Bench {
  explicit Bench(std::move_only_function<void(Controller&)> twist = {}) : server("nvme") {
    server.with([this, &twist](TestDevice& device) {
      controller.emplace(device);
      if (twist) twist(*controller);
      device.written = [this](const vfio::RegionWrite& write) { controller->written(write); };
      device.twist = [](vfio::RegionInfo& info) {
        info.areas.clear();
        info.fd.reset();
      };
    });
  }
  Result<std::unique_ptr<nvme::Driver>> start() {
    auto device = open_device(server.address());
    if (!device) return std::unexpected(device.error());
    return nvme::Driver::start(std::move(*device), false);
  }
  std::optional<Controller> controller;
  TestServer server;
};

Result<unsigned> read_once(nvme::Driver& driver) {
  if (auto made = driver.make_buffers(1, 4096); !made) return std::unexpected(made.error());
  if (auto submitted = driver.submit(nvme::io_read, 0, 1, 0); !submitted) return std::unexpected(submitted.error());
  return driver.wait();
}

} // namespace

TEST_CASE("a controller that keeps the rules is driven, and left disabled with bus master off") {
  Bench bench;
  {
    const auto driver = bench.start();
    REQUIRE(driver);
    CHECK((*driver)->identity().blocks == 1000);
    CHECK((*driver)->identity().block_size == 512);
    CHECK((*driver)->identity().version == "1.4.0");
    CHECK((*driver)->max_depth() == 63);
    for (int i = 0; i < 200; ++i) REQUIRE(read_once(**driver) == 0U); // the queues wrap
  }
  bench.server.with([](TestDevice& device) {
    CHECK(device.windows.empty());
    CHECK((device.bar0.bytes()[nvme::reg_cc] & std::byte{1}) == std::byte{0});
    CHECK((device.config[4] & std::byte{4}) == std::byte{0});
  });
}

TEST_CASE("a controller that does not stop is left with bus master off") {
  Bench bench([](Controller& controller) { controller.stops = false; });
  REQUIRE(bench.start());
  bench.server.with([](TestDevice& device) {
    CHECK((device.bar0.bytes()[nvme::reg_csts] & std::byte{1}) != std::byte{0});
    CHECK((device.config[4] & std::byte{4}) == std::byte{0});
  });
}

TEST_CASE("registers that read as all ones mean that the device is gone") {
  Bench bench([](Controller& controller) { std::memset(controller.device.bar0.bytes().data(), 0xff, 4096); });
  CHECK(fails_with(bench.start(), Errc::revoked));
}

TEST_CASE("capabilities this driver cannot use are refused") {
  const auto with_cap = [](std::uint64_t cap) {
    Bench bench([cap](Controller& controller) { controller.set(nvme::reg_cap, cap); });
    return bench.start();
  };
  CHECK(fails_with(with_cap(usable_cap & ~(1ULL << 37)), Errc::bad_request)); // no NVM command set
  CHECK(fails_with(with_cap(usable_cap | 1ULL << 48), Errc::bad_request));    // pages of 8 KiB at least
  CHECK(fails_with(with_cap(usable_cap & ~0xffffULL), Errc::bad_request));    // queues of one entry
  CHECK(fails_with(with_cap(usable_cap | 15ULL << 32), Errc::bad_request));   // doorbells beyond the BAR
  CHECK(with_cap((usable_cap & ~0xffffULL) | 1));                             // two entries are enough
}

TEST_CASE("a controller that never becomes ready, or reports a fatal error, is given up in time") {
  {
    Bench bench([](Controller& controller) { controller.becomes_ready = false; });
    CHECK(fails_with(bench.start(), Errc::timed_out));
  }
  Bench bench([](Controller& controller) {
    controller.becomes_ready = false;
    controller.set<std::uint32_t>(nvme::reg_csts, nvme::csts_fatal);
  });
  CHECK(fails_with(bench.start(), EIO));
}

TEST_CASE("identify pages that make no sense are refused") {
  const auto with_pages = [](std::move_only_function<void(Controller&)> twist) {
    Bench bench(std::move(twist));
    return bench.start();
  };
  const auto format = [&with_pages](std::uint32_t value) {
    return with_pages([value](Controller& controller) { Controller::put(controller.namespace_page, 128, value); });
  };
  CHECK(fails_with(format(0), Errc::bad_request));            // blocks of one byte
  CHECK(fails_with(format(8U << 16), Errc::bad_request));     // of 256
  CHECK(fails_with(format(17U << 16), Errc::bad_request));    // of 128 KiB
  CHECK(fails_with(format(255U << 16), Errc::bad_request));   // absurd
  CHECK(fails_with(format(9U << 16 | 8), Errc::bad_request)); // metadata
  CHECK(fails_with(with_pages([](Controller& c) { Controller::put<std::uint64_t>(c.namespace_page, 0, 0); }),
                   Errc::bad_request));
  CHECK(fails_with(with_pages([](Controller& c) { Controller::put<std::uint64_t>(c.namespace_page, 0, UINT64_MAX); }),
                   Errc::bad_request));
  CHECK(fails_with(with_pages([](Controller& c) { Controller::put<std::uint32_t>(c.controller_page, 516, 0); }),
                   Errc::bad_request));
  const auto small = with_pages([](Controller& c) { c.controller_page[77] = std::byte{1}; });
  REQUIRE(small);
  CHECK((*small)->identity().max_transfer == 8192);
  const auto absurd = with_pages([](Controller& c) { c.controller_page[77] = std::byte{255}; });
  REQUIRE(absurd);
  CHECK((*absurd)->identity().max_transfer == nvme::max_buffer);
}

TEST_CASE("completions of commands that are not under way are refused") {
  for (const auto change : {1, 62, 63, 1000, 0xffff}) {
    Bench bench([change](Controller& controller) { controller.id_change = static_cast<std::uint16_t>(change); });
    const auto driver = bench.start();
    REQUIRE(driver);
    CHECK(fails_with(read_once(**driver), Errc::bad_request));
  }
  Bench bench([](Controller& controller) { controller.queue_change = 1; });
  const auto driver = bench.start();
  REQUIRE(driver);
  CHECK(fails_with(read_once(**driver), Errc::bad_request));
}

TEST_CASE("status codes without a name have their number") {
  CHECK(nvme::status_text(0x2ff << 1).find("2/0xff") != std::string::npos);
}

TEST_CASE("a controller that was left enabled is reset first") {
  Bench bench([](Controller& controller) {
    controller.set<std::uint32_t>(nvme::reg_cc, nvme::cc_enable);
    controller.set<std::uint32_t>(nvme::reg_csts, nvme::csts_ready);
  });
  CHECK(bench.start());
}

namespace {

using Started = Result<std::unique_ptr<nvme::Driver>>;

Started start(const SimulatedDisk& disk, bool interrupts = false, nvme::Patience patience = {}) {
  auto device = open_device(disk.address());
  if (!device) return std::unexpected(device.error());
  return nvme::Driver::start(std::move(*device), interrupts, patience);
}

/// Writes a block of `value` at `lba` and reads it back.
bool keeps(nvme::Driver& driver, std::uint64_t lba, std::byte value) {
  const auto done = [&driver, lba](std::uint8_t opcode) {
    return driver.submit(opcode, lba, 1, 0) && driver.wait().has_value();
  };
  if (!driver.make_buffers(1, 512)) return false;
  std::ranges::fill(driver.buffer(0), value);
  if (!done(nvme::io_write)) return false;
  std::ranges::fill(driver.buffer(0), std::byte{0});
  return done(nvme::io_read) && driver.buffer(0)[511] == value;
}

constexpr nvme::Patience little{.command = std::chrono::milliseconds(300), .flush = std::chrono::milliseconds(300)};
constexpr std::chrono::seconds soon{8}; ///< less than the patience of the driver

} // namespace

TEST_CASE("controllers of every shape are driven, polling and with interrupts") {
  const auto shape =
      GENERATE(sim::nvme::Shape{}, sim::nvme::Shape{.queue_entries = 2}, sim::nvme::Shape{.queue_entries = 65536},
               sim::nvme::Shape{.doorbell_stride = 1}, sim::nvme::Shape{.doorbell_stride = 15},
               sim::nvme::Shape{.vectors = 1}, sim::nvme::Shape{.vectors = 2048}, sim::nvme::Shape{.vectors = 0});
  CAPTURE(shape.queue_entries, shape.doorbell_stride, shape.vectors);
  const SimulatedDisk disk(shape, 2);
  for (const bool interrupts : {false, true}) {
    const auto driver = start(disk, interrupts);
    REQUIRE(driver);
    CHECK((*driver)->identity().blocks == 16384);
    CHECK((*driver)->max_depth() == std::min(shape.queue_entries, 1024U) - 1);
    for (unsigned lba = 0; lba < 5; ++lba) CHECK(keeps(**driver, lba, static_cast<std::byte>(lba + 1)));
    CHECK((*driver)->flush());
  }
}

TEST_CASE("INTx is armed again after each interrupt") {
  const SimulatedDisk disk({.vectors = 0});
  const auto driver = start(disk, true);
  REQUIRE(driver);
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i)
    REQUIRE(keeps(**driver, 0, std::byte{1})); // 40 interrupts; each that is missed costs 500 ms
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(10));
}

TEST_CASE("a failed command is an error that says what the controller said") {
  const SimulatedDisk disk;
  const auto driver = start(disk);
  REQUIRE(driver);
  const auto says = [&driver](const auto& failed, const char* what) {
    return fails_with(failed, EIO) && failed.error().context.find(what) != std::string::npos;
  };
  disk.inject("reads fail");
  CHECK(says(read_once(**driver), "2/0x81 (unrecovered read error)"));
  disk.inject("reads pass");
  CHECK(read_once(**driver));
  const auto written = [&driver] {
    return (*driver)->submit(nvme::io_write, 0, 1, 0) ? (*driver)->wait() : Result<unsigned>(0U);
  };
  disk.inject("writes no-space");
  CHECK(says(written(), "0/0x81 (capacity exceeded)"));
  disk.inject("writes fail");
  CHECK(says(written(), "2/0x80 (write fault)"));
  disk.inject("writes pass");
  CHECK(written());
  disk.inject("flushes fail");
  CHECK(says((*driver)->flush(), "2/0x80 (write fault)"));
  disk.inject("flushes pass"); // the data is lost nevertheless
  CHECK(says((*driver)->flush(), "2/0x80 (write fault)"));
}

TEST_CASE("an interrupt that is lost costs time, not the command") {
  const SimulatedDisk disk;
  const auto driver = start(disk, true);
  REQUIRE(driver);
  disk.inject("interrupts lose");
  CHECK(keeps(**driver, 3, std::byte{9}));
}

TEST_CASE("a controller that is gone or has failed in mid-I/O is told apart, long before the driver's patience ends") {
  const bool interrupts = GENERATE(false, true);
  const SimulatedDisk disk;
  const auto driver = start(disk, interrupts);
  REQUIRE(driver);
  CHECK(read_once(**driver));
  const auto began = std::chrono::steady_clock::now();
  SECTION("gone") {
    disk.inject("controller gone");
    CHECK(fails_with(read_once(**driver), Errc::revoked));
  }
  SECTION("failed") {
    disk.inject("controller fails");
    const auto failed = read_once(**driver);
    CHECK(fails_with(failed, EIO));
    CHECK(failed.error().context.find("CSTS.CFS") != std::string::npos);
  }
  CHECK(std::chrono::steady_clock::now() - began < soon);
}

TEST_CASE("a command that is never completed is given up after the driver's patience; one that is late is not") {
  const SimulatedDisk disk;
  disk.inject("completions delay 20");
  const auto driver = start(disk, false, little);
  REQUIRE(driver);
  CHECK(read_once(**driver));
  disk.inject("completions hold");
  CHECK(fails_with(read_once(**driver), Errc::timed_out));
}

TEST_CASE("a flush has a patience of its own") {
  const SimulatedDisk disk;
  const bool longer = GENERATE(true, false);
  const auto driver = start(disk, false, {.command = little.command, .flush = longer ? soon * 10 : little.flush});
  REQUIRE(driver);
  disk.inject("flushes hold");
  std::jthread released([&disk, longer] {
    std::this_thread::sleep_for(2 * little.command); // longer than a command may take: that is what is tried
    if (longer) disk.inject("flushes pass");
  });
  const auto flushed = (*driver)->flush();
  CHECK(flushed.has_value() == longer);
  if (!longer) CHECK(fails_with(flushed, Errc::timed_out));
}

TEST_CASE("percentiles of latencies are right to half a percent") {
  nvme::Latencies latencies;
  CHECK(latencies.percentile(50) == 0);
  for (std::uint64_t value = 1; value <= 100'000; ++value) latencies.add(value);
  CHECK(latencies.min() == 1);
  CHECK(latencies.max() == 100'000);
  CHECK(std::llabs(static_cast<long long>(latencies.percentile(50)) - 50'000) < 250);
  CHECK(std::llabs(static_cast<long long>(latencies.percentile(99)) - 99'000) < 495);
  CHECK(latencies.percentile(100) == 100'000);
  latencies.add(UINT64_MAX);
  CHECK(latencies.max() == UINT64_MAX);
}
