// The simulated NVMe controller's queues: wraparound, full queues, and doorbells that lie.
#include "nvme_host.hpp"

#include <set>

using namespace smartio;
using namespace smartio::testing;

namespace {

SubmissionEntry flush() {
  SubmissionEntry entry{};
  entry.nsid = 1;
  return entry;
}

SubmissionEntry read_block() {
  SubmissionEntry entry{};
  entry.opcode = nvme::io_opcode::read;
  entry.nsid = 1;
  entry.prp1 = NvmeHost::data;
  return entry;
}

SubmissionEntry event_request() {
  SubmissionEntry entry{};
  entry.opcode = nvme::admin_opcode::async_event;
  return entry;
}

struct Enabled : NvmeHost {
  Enabled() { enable(); }
  void set_doorbell(unsigned index, std::uint32_t value) {
    reinterpret_cast<std::uint32_t*>(doorbells.bytes().data())[index] = value;
  }
};

} // namespace

TEST_CASE_METHOD(Enabled, "queues wrap around and the phase turns with them") {
  auto queue = create_pair(1, GENERATE(2U, 3U, 7U));
  for (unsigned i = 0; i < 50; ++i) {
    const auto ended = run(queue, flush());
    CHECK(ended.status == Status::success);
    CHECK(ended.sq_head == queue.tail);
  }
}

TEST_CASE_METHOD(Enabled, "a full completion queue holds commands back until there is room") {
  auto queue = create_pair(1, 4);
  std::multiset<std::uint16_t> ids, ended; // flushes end in any order
  for (int i = 0; i < 3; ++i) ids.insert(put(queue, flush()));
  ring(queue);
  poll();
  for (int i = 0; i < 3; ++i) ended.insert(take(queue, false).value().command_id);
  CHECK(ended == ids);
  // All taken, but the controller has not been told: the queue is full to it.
  for (int i = 0; i < 3; ++i) ids.insert(put(queue, flush()));
  ring(queue);
  poll();
  CHECK_FALSE(take(queue, false));
  set_doorbell(3, queue.head);
  poll();
  for (int i = 0; i < 3; ++i) ended.insert(take(queue).value().command_id);
  CHECK(ended == ids);
}

TEST_CASE_METHOD(Enabled, "an event waits for room in the admin completion queue") {
  disable();
  enable(3);
  const std::uint16_t request = put(admin_queue, event_request());
  ring(admin_queue);
  poll();
  for (int i = 0; i < 2; ++i) {
    put(admin_queue, flush()); // Delete I/O SQ 0: an error, but a completion
    ring(admin_queue);
    poll();
  }
  set_reg(0x1080, 1); // no such queue: an event
  poll();
  CHECK(take(admin_queue, false));
  CHECK(take(admin_queue, false));
  CHECK_FALSE(take(admin_queue, false));
  set_doorbell(1, admin_queue.head);
  poll();
  const auto event = take(admin_queue).value();
  CHECK(event.command_id == request);
  CHECK(event.result == 0x00010000); // error log, invalid doorbell register, error
}

TEST_CASE_METHOD(Enabled, "an impossible tail is ignored and reported") {
  auto queue = create_pair(1, 4);
  put(admin_queue, event_request());
  ring(admin_queue);
  poll();
  set_doorbell(2, GENERATE(4U, 0xffffU, 0x10000U, 0xffffffffU));
  poll();
  CHECK(take(admin_queue).value().result == 0x00010100); // error log, invalid doorbell value, error
  CHECK_FALSE(take(queue));
  CHECK(run(queue, flush()).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "a head that was never posted is ignored and reported") {
  auto queue = create_pair(1, 4);
  put(admin_queue, event_request());
  ring(admin_queue);
  poll();
  set_doorbell(3, GENERATE(1U, 3U, 4U, 0xffffffffU));
  poll();
  CHECK(take(admin_queue).value().result == 0x00010100);
  CHECK(run(queue, flush()).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "doorbells of queues that do not exist do nothing but raise an event when trapped") {
  put(admin_queue, event_request());
  ring(admin_queue);
  poll();
  for (unsigned i = 2; i < 1024; ++i) set_doorbell(i, i);
  poll();
  CHECK_FALSE(take(admin_queue));
  set_reg(0x1000 + GENERATE(8U, 12U, 64U * 8 + 4, 65U * 8, 0xffcU), 1);
  poll();
  CHECK(take(admin_queue).value().result == 0x00010000);
  auto queue = create_pair(1); // what was rung before the queue existed does not count
  CHECK(run(queue, flush()).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "doorbells by message and in the page are the same registers") {
  auto queue = create_pair(1);
  put(queue, flush());
  set_reg(0x1008, queue.tail);
  poll();
  CHECK(take(queue));
  put(queue, flush());
  ring(queue);
  CHECK(reg(0x1008) == queue.tail);
  poll();
  CHECK(take(queue));
}

TEST_CASE_METHOD(Enabled, "I/O queues in memory that goes away are fatal, not deadly") {
  constexpr std::uint64_t elsewhere = 0x40000000;
  REQUIRE(map(elsewhere, 0x2000, Access::read_write, memory_fd.get(), 0x400000) == 0);
  SubmissionEntry create{};
  create.opcode = nvme::admin_opcode::create_cq;
  create.cdw10 = 15 << 16 | 1;
  create.cdw11 = 1;
  create.prp1 = elsewhere;
  REQUIRE(admin(create).status == Status::success);
  create.opcode = nvme::admin_opcode::create_sq;
  create.cdw11 = 1 | 1 << 16;
  create.prp1 = elsewhere + 0x1000;
  REQUIRE(admin(create).status == Status::success);
  unmap(elsewhere, 0x2000);
  set_doorbell(2, 1);
  poll();
  CHECK(reg(0x1c) == 3);
  CHECK_FALSE(function->needs_polling());
  disable();
  enable();
  auto queue = create_pair(1);
  CHECK(run(queue, flush()).status == Status::success);
}

TEST_CASE_METHOD(Enabled, "a round of work is bounded, and no queue starves another") {
  auto one = create_pair(1, 64), two = create_pair(2, 64);
  for (int i = 0; i < 60; ++i) put(one, read_block());
  put(two, read_block());
  ring(one);
  ring(two);
  CHECK(function->poll());
  CHECK(take(two));
  CHECK(function->counters().io_commands == nvme::Controller::round_commands);
  poll();
  CHECK(function->counters().io_commands == 61);
}

TEST_CASE_METHOD(Enabled, "several submission queues share a completion queue") {
  auto one = create_pair(1);
  SubmissionEntry create{};
  create.opcode = nvme::admin_opcode::create_sq;
  create.cdw10 = 15 << 16 | 2;
  create.cdw11 = 1 | 1 << 16;
  create.prp1 = base + 0x50000;
  REQUIRE(admin(create).status == Status::success);
  auto entry = flush();
  entry.command_id = 0x77;
  store(base + 0x50000, entry);
  set_doorbell(4, 1);
  poll();
  const auto posted = load<nvme::CompletionEntry>(one.cq);
  CHECK(posted.sq_id == 2);
  CHECK(posted.command_id == 0x77);
  create.opcode = nvme::admin_opcode::delete_sq;
  CHECK(admin(create).status == Status::success);
  create.opcode = nvme::admin_opcode::delete_cq;
  create.cdw10 = 1;
  CHECK(admin(create).status == Status::invalid_queue_deletion); // queue 1 still uses it
}

TEST_CASE_METHOD(Enabled, "commands that wait for the medium are aborted with their queue, and forgotten by a reset") {
  auto queue = create_pair(1);
  const bool by_reset = GENERATE(true, false);
  for (int i = 0; i < 10; ++i) put(queue, flush());
  ring(queue);
  function->poll();
  if (by_reset) {
    disable();
    CHECK_FALSE(function->settling());
    enable();
    queue = create_pair(1);
    poll();
    CHECK_FALSE(take(queue));
    return;
  }
  SubmissionEntry remove{};
  remove.cdw10 = 1; // Delete I/O Submission Queue
  CHECK(admin(remove).status == Status::success);
  CHECK_FALSE(function->settling());
  for (int i = 0; i < 10; ++i) {
    const auto ended = take(queue).value();
    CHECK((ended.status == Status::success || ended.status == Status::aborted_by_deletion));
  }
  CHECK_FALSE(take(queue));
}
