// The simulated NVMe controller's registers and configuration space: enabling, resetting, shutting down, bus mastering.
#include "nvme_host.hpp"

#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace smartio::testing;

namespace {

constexpr std::uint64_t config_write_enable_flr = 0x68; // device control of the PCI Express capability

SubmissionEntry get_queue_count() {
  SubmissionEntry command{};
  command.opcode = nvme::admin_opcode::get_features;
  command.cdw10 = nvme::feature::queues;
  return command;
}

} // namespace

TEST_CASE("registers say what the controller can do, in words and double words") {
  NvmeHost host;
  CHECK(host.reg(0x00, 8) == 0x00000020140103ff);
  CHECK(host.reg(0x04) == 0x20);
  CHECK(host.reg(0x08) == 0x00010400);
  CHECK(host.reg(0x0a, 2) == 0x0001);
  for (const std::uint32_t reserved : {0x18U, 0x20U, 0x38U, 0x3cU, 0x40U, 0xffcU}) CHECK(host.reg(reserved) == 0);
  CHECK(std::get<vfio::Data>(host.request(vfio::RegionRead{0, 0, 0x4000}).value()).bytes.size() == 0x4000);
}

TEST_CASE("accesses outside a region are refused") {
  NvmeHost host;
  for (const auto& [region, offset, count] :
       std::vector<std::tuple<std::uint32_t, std::uint64_t, std::uint32_t>>{{0, 0x4000, 1},
                                                                            {0, 0x3ffd, 4},
                                                                            {0, UINT64_MAX, 4},
                                                                            {0, UINT64_MAX - 3, 4},
                                                                            {7, 4096, 1},
                                                                            {7, 4093, 4},
                                                                            {1, 0, 4},
                                                                            {6, 0, 4},
                                                                            {8, 0, 1},
                                                                            {9, 0, 1},
                                                                            {UINT32_MAX, 0, 4}}) {
    CHECK(host.request(vfio::RegionRead{region, offset, count}) == std::unexpected(EINVAL));
    CHECK(host.request(vfio::RegionWrite{region, offset, std::vector<std::byte>(count)}) == std::unexpected(EINVAL));
  }
  CHECK_FALSE(host.request(vfio::GetRegionInfo{9}));
  CHECK_FALSE(host.request(vfio::GetIrqInfo{5}));
}

TEST_CASE("only BAR 0 and configuration space exist, and one page of BAR 0 can be mapped") {
  NvmeHost host;
  for (std::uint32_t i = 0; i < vfio::region_count; ++i) {
    const auto info = std::get<vfio::RegionInfo>(host.request(vfio::GetRegionInfo{i}).value());
    CHECK(info.size == (i == 0 ? 0x4000U : i == 7 ? 4096U : 0U));
    CHECK(info.flags == (i == 0 ? 7U : i == 7 ? 3U : 0U));
    CHECK(info.areas == (i == 0 ? std::vector{vfio::RegionArea{0x1000, 0x1000}} : std::vector<vfio::RegionArea>{}));
    CHECK(static_cast<bool>(info.fd) == (i == 0));
  }
}

TEST_CASE("every client gets a doorbell page of its own, whose size it cannot change") {
  NvmeHost one, two;
  const auto info = std::get<vfio::RegionInfo>(one.request(vfio::GetRegionInfo{0}).value());
  CHECK(::ftruncate(info.fd.get(), 0) != 0);
  CHECK(::ftruncate(info.fd.get(), 1 << 20) != 0);
  one.store(NvmeHost::data, 0);
  reinterpret_cast<std::uint32_t*>(one.doorbells.bytes().data())[2] = 77;
  CHECK(one.reg(0x1008) == 77);
  CHECK(two.reg(0x1008) == 0);
}

TEST_CASE("configuration space: identity, capabilities, BAR size") {
  NvmeHost host;
  CHECK(host.read(7, 0x00, 4) == 0x10f01af4);
  CHECK(host.read(7, 0x09, 1) == 0x02);
  CHECK(host.read(7, 0x0a, 2) == 0x0108);
  CHECK((host.read(7, 0x06, 2) & 0x10) != 0);
  std::vector<std::uint64_t> capabilities;
  for (std::uint64_t at = host.read(7, 0x34, 1); at != 0; at = host.read(7, at + 1, 1)) {
    capabilities.push_back(host.read(7, at, 1));
    REQUIRE(capabilities.size() < 10);
  }
  CHECK(capabilities == std::vector<std::uint64_t>{0x01, 0x11, 0x10});
  CHECK(host.read(7, 0x52, 2) == 64); // MSI-X: 65 vectors
  host.write(7, 0x10, 8, UINT64_MAX);
  CHECK(host.read(7, 0x10, 8) == 0xffffffffffffc004);
  host.write(7, 0x00, 4, 0);
  host.write(7, 0xfff, 1, 0xff);
  CHECK(host.read(7, 0x00, 4) == 0x10f01af4);
  CHECK(host.read(7, 0xfff, 1) == 0);
}

TEST_CASE("a controller that is asked for what it cannot do fails and recovers by a reset") {
  const std::uint32_t bad = GENERATE(0x00460011U, 0x00460081U, 0x00460801U); // command set, page size, arbitration
  NvmeHost host;
  host.set_reg(0x24, 0x000f000f);
  host.set_reg(0x14, bad);
  CHECK(host.reg(0x1c) == 2);
  host.set_reg(0x14, 0);
  CHECK(host.reg(0x1c) == 0);
  host.enable();
}

TEST_CASE("an admin queue of one entry is refused") {
  NvmeHost host;
  host.set_reg(0x24, GENERATE(0x00000000U, 0x00000001U, 0x00010000U));
  host.set_reg(0x14, 0x00460001);
  CHECK(host.reg(0x1c) == 2);
}

TEST_CASE("an admin queue in memory that does not exist is fatal, not deadly") {
  NvmeHost host;
  host.enable();
  host.disable();
  const bool submission = GENERATE(true, false);
  host.set_reg(submission ? 0x28 : 0x30, 0xdead000, 8);
  host.set_reg(0x14, 0x00460001);
  CHECK(host.reg(0x1c) == 1);
  host.admin_queue.tail = 0;
  host.put(host.admin_queue, get_queue_count());
  host.ring(host.admin_queue);
  host.poll();
  CHECK(host.reg(0x1c) == 3);
  host.disable();
  host.enable();
  CHECK(host.admin(get_queue_count()).result == 0x003f003f);
}

TEST_CASE("the admin queue registers do not move while the controller is enabled") {
  NvmeHost host;
  host.enable();
  host.set_reg(0x28, 0x5000, 8);
  host.set_reg(0x24, 0);
  CHECK(host.reg(0x28, 8) == host.admin_queue.sq);
  CHECK(host.reg(0x24) == 0x000f000f);
  CHECK(host.admin(get_queue_count()).status == Status::success);
}

TEST_CASE("a controller reset forgets queues and features, keeps the admin queue registers") {
  NvmeHost host;
  host.enable();
  host.create_pair(3);
  SubmissionEntry command{};
  command.opcode = nvme::admin_opcode::set_features;
  command.cdw10 = nvme::feature::write_cache;
  command.cdw11 = 0;
  CHECK(host.admin(command).status == Status::success);
  host.ring(host.admin_queue);
  host.disable();
  CHECK(host.reg(0x1c) == 0);
  CHECK(host.reg(0x28, 8) == host.admin_queue.sq);
  CHECK(host.reg(0x1000) == 0); // doorbells too
  host.enable();
  command.opcode = nvme::admin_opcode::get_features;
  CHECK(host.admin(command).result == 1);
  host.create_pair(3);
}

TEST_CASE("commands rung before a reset are not executed after it") {
  NvmeHost host;
  host.enable();
  host.put(host.admin_queue, get_queue_count());
  host.ring(host.admin_queue);
  host.disable();
  host.enable();
  host.poll();
  CHECK_FALSE(host.take(host.admin_queue));
}

TEST_CASE("shutdown completes, and commands wait for the next reset") {
  NvmeHost host;
  host.enable();
  host.set_reg(0x14, 0x00460001 | GENERATE(1U, 2U) << 14);
  while (host.reg(0x1c) == 5) std::this_thread::yield(); // shutdown occurring: the file is flushed
  CHECK(host.reg(0x1c) == 9);                            // ready, shutdown complete
  host.put(host.admin_queue, get_queue_count());
  host.ring(host.admin_queue);
  host.poll();
  CHECK_FALSE(host.take(host.admin_queue));
  host.disable();
  CHECK(host.reg(0x1c) == 0);
  host.enable();
  CHECK(host.admin(get_queue_count()).status == Status::success);
}

TEST_CASE("without bus mastering nothing is read or written; with it, work goes on") {
  NvmeHost host;
  host.enable();
  host.write(7, 0x04, 2, 0x0002);
  host.put(host.admin_queue, get_queue_count());
  host.ring(host.admin_queue);
  CHECK_FALSE(host.function->poll());
  CHECK_FALSE(host.function->needs_polling());
  CHECK_FALSE(host.take(host.admin_queue));
  host.write(7, 0x04, 2, 0x0006);
  CHECK(host.function->needs_polling());
  host.poll();
  CHECK(host.take(host.admin_queue));
}

TEST_CASE("a function level reset keeps BARs and DMA windows, a device reset only the windows") {
  NvmeHost host;
  host.write(7, 0x10, 8, 0xfe000000);
  host.enable();
  const bool whole = GENERATE(true, false);
  if (whole) {
    CHECK(host.request(vfio::Reset{}));
  } else {
    host.write(7, config_write_enable_flr, 2, 0x8000 | host.read(7, config_write_enable_flr, 2));
  }
  CHECK(host.read(7, 0x10, 8) == (whole ? 0x4 : 0xfe000004));
  CHECK(host.read(7, config_write_enable_flr, 2) == 0x2810);
  CHECK(host.read(7, 0x04, 2) == 0);
  CHECK(host.reg(0x14) == 0);
  CHECK(host.reg(0x1c) == 0);
  CHECK(host.reg(0x28, 8) == 0);
  host.enable();
  CHECK(host.admin(get_queue_count()).status == Status::success);
}

TEST_CASE("parts of registers are read, but not written") {
  NvmeHost host;
  host.set_reg(0x24, 0x00ff00ff);
  host.set_reg(0x24, 0, 2);
  host.set_reg(0x26, 0, 2);
  host.set_reg(0x25, 0, 1);
  CHECK(host.reg(0x24) == 0x00ff00ff);
  host.set_reg(0x26, 0, 4); // touches two words, covers none
  CHECK(host.reg(0x24) == 0x00ff00ff);
  CHECK(host.reg(0x25, 1) == 0x00);
  CHECK(host.reg(0x26, 1) == 0xff);
}
