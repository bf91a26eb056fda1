// The simulated NVMe controller's admin commands: what they answer, and every way to get them wrong.
#include "nvme_host.hpp"

using namespace smartio;
using namespace smartio::testing;
namespace opcode = smartio::sim::nvme::admin_opcode;
namespace feature = smartio::sim::nvme::feature;

namespace {

SubmissionEntry command(std::uint8_t code, std::uint32_t cdw10 = 0, std::uint32_t cdw11 = 0, std::uint32_t nsid = 0) {
  SubmissionEntry entry{};
  entry.opcode = code;
  entry.cdw10 = cdw10;
  entry.cdw11 = cdw11;
  entry.nsid = nsid;
  entry.prp1 = NvmeHost::data;
  return entry;
}

SubmissionEntry log_page(std::uint8_t id, std::uint32_t bytes, bool retain = false) {
  auto entry = command(opcode::get_log_page, (bytes / 4 - 1) << 16 | (retain ? 0x8000U : 0) | id);
  entry.nsid = nvme::all_namespaces;
  return entry;
}

std::string text(const NvmeHost& host, std::uint64_t offset, std::size_t size) {
  return {reinterpret_cast<const char*>(host.at(NvmeHost::data + offset)), size};
}

struct Enabled : NvmeHost {
  Enabled() { enable(); }
};

} // namespace

TEST_CASE_METHOD(Enabled, "identify controller: identity, limits and optional commands") {
  REQUIRE(admin(command(opcode::identify, 1)).status == Status::success);
  CHECK(load<std::uint16_t>(data) == 0x1af4);
  CHECK(text(*this, 4, 3) == "SIM");
  CHECK(text(*this, 24, 40) == "smartio simulated NVMe controller       ");
  CHECK(text(*this, 64, 8) == "0.1.0   ");
  CHECK(load<std::uint8_t>(data + 77) == 8);
  CHECK(load<std::uint32_t>(data + 80) == 0x10400);
  CHECK(load<std::uint8_t>(data + 512) == 0x66);
  CHECK(load<std::uint8_t>(data + 513) == 0x44);
  CHECK(load<std::uint32_t>(data + 516) == 1);
  CHECK((load<std::uint8_t>(data + 525) & 1) == 1);
  CHECK(text(*this, 768, 32) == "nqn.2014-08.org.nvmexpress:uuid:");
}

TEST_CASE_METHOD(Enabled, "identify namespace, active list and descriptors agree") {
  REQUIRE(admin(command(opcode::identify, 0, 0, 1)).status == Status::success);
  CHECK(load<std::uint64_t>(data) == 8192);
  CHECK(load<std::uint64_t>(data + 8) == 8192);
  CHECK(load<std::uint8_t>(data + 130) == 9);
  REQUIRE(admin(command(opcode::identify, 2, 0, 0)).status == Status::success);
  CHECK(load<std::uint64_t>(data) == 1);
  REQUIRE(admin(command(opcode::identify, 2, 0, 1)).status == Status::success);
  CHECK(load<std::uint64_t>(data) == 0);
  REQUIRE(admin(command(opcode::identify, 3, 0, 1)).status == Status::success);
  CHECK(load<std::uint16_t>(data) == 0x1003);
  CHECK((load<std::uint8_t>(data + 10) & 0xf0) == 0x80); // UUID version 8
  CHECK(load<std::uint8_t>(data + 20) == 0);
}

TEST_CASE("a disk of 4 KiB blocks says so") {
  NvmeHost host(4 << 20, 4096);
  host.enable();
  REQUIRE(host.admin(command(opcode::identify, 0, 0, 1)).status == Status::success);
  CHECK(host.load<std::uint64_t>(NvmeHost::data) == 1024);
  CHECK(host.load<std::uint8_t>(NvmeHost::data + 130) == 12);
}

TEST_CASE_METHOD(Enabled, "identify of what does not exist is refused") {
  for (const std::uint32_t nsid : {0U, 2U, 0xfffffffeU, 0xffffffffU}) {
    CHECK(admin(command(opcode::identify, 0, 0, nsid)).status == Status::invalid_namespace);
    CHECK(admin(command(opcode::identify, 3, 0, nsid)).status == Status::invalid_namespace);
  }
  CHECK(admin(command(opcode::identify, 2, 0, 0xfffffffe)).status == Status::invalid_namespace);
  for (const std::uint32_t cns : {4U, 5U, 6U, 0x10U, 0x13U, 0xffU})
    CHECK(admin(command(opcode::identify, cns, 0, 1)).status == Status::invalid_field);
}

TEST_CASE_METHOD(Enabled, "unknown and optional commands are invalid opcodes, for good") {
  for (const unsigned code :
       {0x03U, 0x07U, 0x0dU, 0x10U, 0x11U, 0x14U, 0x15U, 0x18U, 0x1aU, 0x7cU, 0x80U, 0x84U, 0xc0U, 0xffU}) {
    const auto ended = admin(command(static_cast<std::uint8_t>(code)));
    CHECK(ended.status == Status::invalid_opcode);
    CHECK(ended.do_not_retry);
  }
}

TEST_CASE_METHOD(Enabled, "fused commands and SGLs are refused") {
  for (const unsigned flags : {0x01U, 0x02U, 0x40U, 0x80U}) {
    auto entry = command(opcode::identify, 1);
    entry.flags = static_cast<std::uint8_t>(flags);
    CHECK(admin(entry).status == Status::invalid_field);
  }
}

TEST_CASE_METHOD(Enabled, "data goes over two pages, and a bad pointer is refused") {
  auto entry = command(opcode::identify, 1);
  entry.prp1 = data + 0xf00;
  entry.prp2 = data + 0x3000;
  REQUIRE(admin(entry).status == Status::success);
  CHECK(load<std::uint16_t>(data + 0xf00) == 0x1af4);
  CHECK(load<std::uint8_t>(data + 0x3000 + 512 - 0x100) == 0x66);
  entry.prp2 = data + 0x3010;
  CHECK(admin(entry).status == Status::invalid_prp_offset);
  entry.prp2 = 0x10;
  CHECK(admin(entry).status == Status::invalid_prp_offset);
  entry.prp2 = 0x7000;
  CHECK(admin(entry).status == Status::data_transfer_error);
  entry.prp1 = data + 1;
  CHECK(admin(entry).status == Status::invalid_prp_offset);
}

TEST_CASE_METHOD(Enabled, "completion queues: every error has its status") {
  const auto create = [this](std::uint32_t id, std::uint32_t entries, std::uint32_t flags, std::uint64_t address) {
    auto entry = command(opcode::create_cq, (entries - 1) << 16 | id, flags);
    entry.prp1 = address;
    return admin(entry).status;
  };
  const std::uint64_t page = base + 0x40000;
  CHECK(create(0, 16, 1, page) == Status::invalid_queue_id);
  CHECK(create(65, 16, 1, page) == Status::invalid_queue_id);
  CHECK(create(0xffff, 16, 1, page) == Status::invalid_queue_id);
  CHECK(create(1, 1, 1, page) == Status::invalid_queue_size);
  CHECK(create(1, 1025, 1, page) == Status::invalid_queue_size);
  CHECK(create(1, 65536, 1, page) == Status::invalid_queue_size);
  CHECK(create(1, 16, 0, page) == Status::invalid_field);
  CHECK(create(1, 16, 1, page + 8) == Status::invalid_prp_offset);
  CHECK(create(1, 16, 3 | 65 << 16, page) == Status::invalid_vector);
  CHECK(create(1, 16, 3 | 64 << 16, page) == Status::success);
  CHECK(create(1, 16, 1, page) == Status::invalid_queue_id); // there already
  CHECK(create(64, 1024, 1, page) == Status::success);
}

TEST_CASE_METHOD(Enabled, "submission queues: every error has its status") {
  create_pair(1);
  const auto create = [this](std::uint32_t id, std::uint32_t entries, std::uint32_t flags, std::uint64_t address) {
    auto entry = command(opcode::create_sq, (entries - 1) << 16 | id, flags);
    entry.prp1 = address;
    return admin(entry).status;
  };
  const std::uint64_t page = base + 0x40000;
  CHECK(create(0, 16, 1 | 1 << 16, page) == Status::invalid_queue_id);
  CHECK(create(65, 16, 1 | 1 << 16, page) == Status::invalid_queue_id);
  CHECK(create(1, 16, 1 | 1 << 16, page) == Status::invalid_queue_id);
  CHECK(create(2, 16, 1 | 0 << 16, page) == Status::invalid_queue_id); // the admin queue's
  CHECK(create(2, 16, 1 | 2 << 16, page) == Status::completion_queue_invalid);
  CHECK(create(2, 16, 1 | 65 << 16, page) == Status::invalid_queue_id);
  CHECK(create(2, 1, 1 | 1 << 16, page) == Status::invalid_queue_size);
  CHECK(create(2, 1025, 1 | 1 << 16, page) == Status::invalid_queue_size);
  CHECK(create(2, 16, 0 | 1 << 16, page) == Status::invalid_field);
  CHECK(create(2, 16, 1 | 1 << 16, page + 0x800) == Status::invalid_prp_offset);
  CHECK(create(2, 16, 1 | 1 << 16, page) == Status::success);
}

TEST_CASE_METHOD(Enabled, "I/O queues need their entry sizes configured") {
  disable();
  set_reg(0x14, 1); // enabled, entry sizes 0
  admin_queue.tail = admin_queue.head = 0;
  admin_queue.phase = true;
  std::memset(at(admin_queue.cq), 0, 4096);
  auto entry = command(opcode::create_cq, 15 << 16 | 1, 1);
  CHECK(admin(entry).status == Status::invalid_queue_size);
}

TEST_CASE_METHOD(Enabled, "queues go in the right order, and their ids can be used again") {
  create_pair(5);
  CHECK(admin(command(opcode::delete_cq, 5)).status == Status::invalid_queue_deletion);
  CHECK(admin(command(opcode::delete_sq, 4)).status == Status::invalid_queue_id);
  CHECK(admin(command(opcode::delete_sq, 0)).status == Status::invalid_queue_id);
  CHECK(admin(command(opcode::delete_cq, 0)).status == Status::invalid_queue_id);
  CHECK(admin(command(opcode::delete_cq, 0xffff)).status == Status::invalid_queue_id);
  CHECK(admin(command(opcode::delete_sq, 5)).status == Status::success);
  CHECK(admin(command(opcode::delete_sq, 5)).status == Status::invalid_queue_id);
  CHECK(admin(command(opcode::delete_cq, 5)).status == Status::success);
  auto queue = create_pair(5);
  SubmissionEntry flush{};
  flush.nsid = 1;
  CHECK(run(queue, flush).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "all 64 queue pairs work at once") {
  std::vector<HostQueue> queues;
  for (unsigned id = 1; id <= 64; ++id) queues.push_back(create_pair(id, 2));
  SubmissionEntry flush{};
  flush.nsid = 1;
  for (auto& queue : queues) {
    put(queue, flush);
    ring(queue);
  }
  poll();
  for (auto& queue : queues) CHECK(take(queue).value().status == Status::success);
}

TEST_CASE_METHOD(Enabled, "features: defaults, changes, selects") {
  const auto get = [this](std::uint32_t id, std::uint32_t select = 0, std::uint32_t cdw11 = 0) {
    return admin(command(opcode::get_features, id | select << 8, cdw11));
  };
  const auto set = [this](std::uint32_t id, std::uint32_t value) {
    return admin(command(opcode::set_features, id, value)).status;
  };
  CHECK(get(feature::queues).result == 0x003f003f);
  CHECK(get(feature::write_cache).result == 1);
  CHECK(get(feature::temperature_threshold).result == 343);
  CHECK(set(feature::write_cache, 0) == Status::success);
  CHECK(get(feature::write_cache).result == 0);
  CHECK(get(feature::write_cache, 1).result == 1); // default
  CHECK(get(feature::write_cache, 2).result == 1); // saved: there is no other than the default
  CHECK(get(feature::write_cache, 3).result == 4); // changeable
  CHECK(get(feature::write_cache, 4).status == Status::invalid_field);
  CHECK(set(feature::write_cache | 0x80000000U, 1) == Status::feature_not_saveable);
  CHECK(set(feature::vector_configuration, 64 | 0x10000) == Status::success);
  CHECK(get(feature::vector_configuration, 0, 64).result == (64 | 0x10000));
  CHECK(set(feature::vector_configuration, 65) == Status::invalid_field);
  CHECK(get(feature::vector_configuration, 0, 65).status == Status::invalid_field);
  CHECK(set(feature::power_management, 1) == Status::invalid_field);
  CHECK(set(feature::error_recovery, 0x10000) == Status::invalid_field);
  CHECK(set(feature::queues, 0x0000ffff) == Status::invalid_field);
  CHECK(set(feature::queues, 0xffff0000) == Status::invalid_field);
  CHECK(set(feature::temperature_threshold, 1 << 16) == Status::invalid_field);
  CHECK(set(feature::temperature_threshold, 2 << 20) == Status::invalid_field);
  for (const std::uint32_t unknown : {0U, 3U, 0x0cU, 0x0dU, 0x0eU, 0x0fU, 0x10U, 0x80U, 0xffU}) {
    CHECK(get(unknown).status == Status::invalid_field);
    CHECK(set(unknown, 0) == Status::invalid_field);
  }
  CHECK(admin(command(opcode::get_features, feature::write_cache, 0, 7)).status == Status::invalid_namespace);
}

TEST_CASE_METHOD(Enabled, "a controller's features are no namespace's, error recovery is") {
  for (const std::uint8_t code : {opcode::get_features, opcode::set_features}) {
    for (const std::uint8_t id : {feature::arbitration, feature::power_management, feature::temperature_threshold,
                                  feature::write_cache, feature::interrupt_coalescing, feature::vector_configuration,
                                  feature::write_atomicity, feature::event_configuration, feature::queues})
      CHECK(admin(command(code, id, 0, 1)).status == Status::feature_not_namespace_specific);
    for (const std::uint32_t nsid : {0U, 1U, nvme::all_namespaces})
      CHECK(admin(command(code, feature::error_recovery, 0, nsid)).status == Status::success);
    CHECK(admin(command(code, feature::write_cache, 0, nvme::all_namespaces)).status == Status::success);
  }
}

TEST_CASE_METHOD(Enabled, "the number of queues is settled once there are any") {
  CHECK(admin(command(opcode::set_features, feature::queues, 0x00010001)).result == 0x003f003f);
  create_pair(1);
  CHECK(admin(command(opcode::set_features, feature::queues, 0)).status == Status::command_sequence_error);
}

TEST_CASE_METHOD(Enabled, "the error log names the failed commands, newest first") {
  CHECK(admin(command(0xc1)).status == Status::invalid_opcode);
  const auto failed = admin(command(opcode::identify, 0, 0, 9));
  CHECK(failed.status == Status::invalid_namespace);
  REQUIRE(admin(log_page(0x01, 4096)).status == Status::success);
  CHECK(load<std::uint64_t>(data) == 2);
  CHECK(load<std::uint16_t>(data + 10) == failed.command_id);
  CHECK((load<std::uint16_t>(data + 12) >> 1 & 0x7ff) == 0x00b);
  CHECK(load<std::uint32_t>(data + 24) == 9);
  CHECK(load<std::uint64_t>(data + 64) == 1);
  CHECK(load<std::uint64_t>(data + 128) == 0);
  REQUIRE(admin(log_page(0x02, 512)).status == Status::success);
  CHECK(load<std::uint64_t>(data + 176) == 2);
}

TEST_CASE_METHOD(Enabled, "the health log counts commands and data") {
  REQUIRE(io(nvme::io_opcode::write, 0, 8).status == Status::success);
  REQUIRE(io(nvme::io_opcode::read, 0, 8).status == Status::success);
  REQUIRE(io(nvme::io_opcode::read, 8, 1).status == Status::success);
  REQUIRE(admin(log_page(0x02, 512)).status == Status::success);
  CHECK(load<std::uint8_t>(data) == 0);
  CHECK(load<std::uint16_t>(data + 1) == 313);
  CHECK(load<std::uint64_t>(data + 32) == 1);
  CHECK(load<std::uint64_t>(data + 64) == 2);
  CHECK(load<std::uint64_t>(data + 80) == 1);
}

TEST_CASE_METHOD(Enabled, "other logs, offsets and bad requests") {
  REQUIRE(admin(log_page(0x03, 512)).status == Status::success);
  CHECK(text(*this, 8, 8) == "0.1.0   ");
  REQUIRE(admin(log_page(0x05, 4096)).status == Status::success);
  CHECK(load<std::uint32_t>(data + 6 * 4) == 1);
  CHECK(load<std::uint32_t>(data + 1024 + 1 * 4) == 3);
  CHECK(load<std::uint32_t>(data + 1024 + 0x0c * 4) == 0);
  auto offset = log_page(0x03, 512);
  offset.cdw12 = 8;
  REQUIRE(admin(offset).status == Status::success);
  CHECK(text(*this, 0, 8) == "0.1.0   ");
  CHECK(load<std::uint64_t>(data + 504) == 0);
  for (const std::uint32_t bad : {2U, 516U}) {
    offset.cdw12 = bad;
    CHECK(admin(offset).status == Status::invalid_field);
  }
  offset.cdw12 = 0;
  offset.cdw13 = 1;
  CHECK(admin(offset).status == Status::invalid_field);
  auto huge = log_page(0x01, 4096);
  huge.cdw11 = 0xffff;
  CHECK(admin(huge).status == Status::invalid_field);
  CHECK(admin(log_page(0x00, 512)).status == Status::invalid_log_page);
  CHECK(admin(log_page(0x04, 512)).status == Status::invalid_log_page);
  CHECK(admin(log_page(0x80, 512)).status == Status::invalid_log_page);
  auto of_namespace = log_page(0x02, 512);
  of_namespace.nsid = 1;
  CHECK(admin(of_namespace).status == Status::invalid_field);
}

TEST_CASE_METHOD(Enabled, "an event request ends when the temperature crosses its threshold, once per log read") {
  const std::uint16_t first = put(admin_queue, command(opcode::async_event));
  const std::uint16_t second = put(admin_queue, command(opcode::async_event));
  ring(admin_queue);
  poll();
  CHECK_FALSE(take(admin_queue));
  CHECK(admin(command(opcode::set_features, feature::event_configuration, 0x02)).status == Status::success);
  put(admin_queue, command(opcode::set_features, feature::temperature_threshold, 300));
  ring(admin_queue);
  poll();
  CHECK(take(admin_queue).value().status == Status::success);
  const auto event = take(admin_queue).value();
  CHECK(event.command_id == first);
  CHECK(event.result == 0x00020101); // SMART log, temperature, health
  CHECK(admin(command(opcode::set_features, feature::temperature_threshold, 301)).status == Status::success);
  CHECK_FALSE(take(admin_queue)); // held back until the log is read
  CHECK(admin(log_page(0x02, 512, true)).status == Status::success);
  CHECK((load<std::uint8_t>(data) & 2) == 2);
  CHECK_FALSE(take(admin_queue)); // retained
  CHECK(admin(log_page(0x02, 512)).status == Status::success);
  CHECK(take(admin_queue).value().command_id == second);
}

TEST_CASE_METHOD(Enabled, "more event requests than the limit are refused") {
  for (int i = 0; i < 4; ++i) put(admin_queue, command(opcode::async_event));
  CHECK(admin(command(opcode::async_event)).status == Status::event_limit_exceeded);
}

TEST_CASE_METHOD(Enabled, "abort ends an event request, and says when there is nothing to abort") {
  const std::uint16_t id = put(admin_queue, command(opcode::async_event));
  put(admin_queue, command(opcode::abort, static_cast<std::uint32_t>(id) << 16));
  ring(admin_queue);
  poll();
  const auto aborted = take(admin_queue).value();
  CHECK(aborted.command_id == id);
  CHECK(aborted.status == Status::abort_requested);
  CHECK(take(admin_queue).value().result == 0);
  CHECK(admin(command(opcode::abort, static_cast<std::uint32_t>(id) << 16)).result == 1);
  CHECK(admin(command(opcode::abort, 0x00070009)).result == 1);
}

TEST_CASE_METHOD(Enabled, "event requests are forgotten by a reset") {
  put(admin_queue, command(opcode::async_event));
  ring(admin_queue);
  poll();
  disable();
  enable();
  for (int i = 0; i < 4; ++i) put(admin_queue, command(opcode::async_event));
  ring(admin_queue);
  poll();
  CHECK_FALSE(take(admin_queue));
}
