// The simulated NVMe controller's interrupts: what SET_IRQS may ask, and when they fire.
#include "nvme_host.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::testing;

namespace {

constexpr std::uint32_t none = vfio::irq_data_none, booleans = vfio::irq_data_bool, eventfds = vfio::irq_data_eventfd;
constexpr std::uint32_t mask = vfio::irq_action_mask, unmask = vfio::irq_action_unmask,
                        trigger = vfio::irq_action_trigger;

SubmissionEntry flush() {
  SubmissionEntry entry{};
  entry.nsid = 1;
  return entry;
}

struct Enabled : NvmeHost {
  Enabled() { enable(); }
  int set(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count, std::vector<int> fds = {},
          std::vector<std::uint8_t> bools = {}) {
    vfio::SetIrqs irqs{flags, index, start, count, std::move(bools), {}};
    for (const int fd : fds) irqs.eventfds.push_back(duplicate(fd).value());
    const auto reply = request(std::move(irqs));
    return reply ? 0 : reply.error();
  }
};

} // namespace

TEST_CASE_METHOD(Enabled, "there are 65 MSI-X vectors, one INTx and the error interrupt of PCI Express") {
  const auto count = [this](std::uint32_t index) {
    return std::get<vfio::IrqInfo>(request(vfio::GetIrqInfo{index}).value()).count;
  };
  CHECK(count(vfio::intx) == 1);
  CHECK(count(vfio::msi) == 0);
  CHECK(count(vfio::msix) == 65);
  CHECK(count(vfio::err) == 1);
  CHECK(count(vfio::req) == 0);
}

TEST_CASE_METHOD(Enabled, "a completion fires the vector of its queue, after its entry") {
  const Fd admin_vector = assign_vector(0), vector = assign_vector(64);
  auto queue = create_pair(1, 16, 64);
  CHECK(drain_eventfd(admin_vector.get()) > 0);
  CHECK(drain_eventfd(vector.get()) == 0);
  put(queue, flush());
  put(queue, flush());
  ring(queue);
  poll();
  CHECK(drain_eventfd(vector.get()) > 0);
  CHECK(take(queue));
  CHECK(take(queue));
  CHECK(drain_eventfd(admin_vector.get()) == 0);
}

TEST_CASE_METHOD(Enabled, "a queue without interrupts fires nothing") {
  const Fd vector = assign_vector(0);
  auto queue = create_pair(1);
  drain_eventfd(vector.get());
  run(queue, flush());
  CHECK(drain_eventfd(vector.get()) == 0);
}

TEST_CASE_METHOD(Enabled, "a vector without an eventfd stays pending and fires when it gets one") {
  REQUIRE(set(eventfds | trigger, vfio::msix, 0, 1) == 0); // QEMU enables MSI-X so
  auto queue = create_pair(1, 16, 3);
  run(queue, flush());
  CHECK(reg(0x3000) == 0x9); // the admin queue's, too
  const Fd vector = assign_vector(3);
  CHECK(drain_eventfd(vector.get()) == 1);
  CHECK(reg(0x3000) == 0x1);
  CHECK(request(vfio::Reset{}));
  CHECK(reg(0x3000) == 0);
  set_reg(0x3000, 0xff);
  CHECK(reg(0x3000) == 0);
}

TEST_CASE_METHOD(Enabled, "disabling all vectors lets go of their eventfds") {
  const Fd vector = assign_vector(0);
  REQUIRE(set(none | trigger, vfio::msix, 0, 0) == 0);
  auto queue = create_pair(1);
  run(queue, flush());
  CHECK(drain_eventfd(vector.get()) == 0);
}

TEST_CASE_METHOD(Enabled, "malformed requests are refused and change nothing") {
  const Fd vector = assign_vector(0), other = make_eventfd().value();
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const Fd one(ends[0]), two(ends[1]);
  const std::uint32_t assign = eventfds | trigger;
  CHECK(set(0, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(none, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(trigger, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(none | booleans | trigger, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(none | trigger | mask, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(0x40 | none | trigger, vfio::msix, 0, 0) == EINVAL);
  CHECK(set(none | trigger, vfio::msix, 1, 0) == EINVAL);
  CHECK(set(assign, vfio::msix, 0, 0) == EINVAL);
  CHECK(set(assign, vfio::msix, 65, 1, {other.get()}) == EINVAL);
  CHECK(set(assign, vfio::msix, 64, 2, {other.get(), other.get()}) == EINVAL);
  CHECK(set(assign, vfio::msix, UINT32_MAX, 2) == EINVAL);
  CHECK(set(assign, vfio::msix, 1, UINT32_MAX) == EINVAL);
  CHECK(set(assign, vfio::msix, 0, 2, {other.get()}) == EINVAL);
  CHECK(set(none | trigger, vfio::msix, 0, 1, {other.get()}) == EINVAL);
  CHECK(set(assign, vfio::msix, 0, 1, {one.get()}) == EINVAL);
  CHECK(set(assign, vfio::msix, 0, 1, {two.get()}) == EINVAL);
  CHECK(set(booleans | trigger, vfio::msix, 0, 2, {}, {1}) == EINVAL);
  CHECK(set(none | mask, vfio::msix, 0, 1) == EINVAL);
  CHECK(set(eventfds | mask, vfio::intx, 0, 1, {other.get()}) == EINVAL);
  for (const std::uint32_t index : {vfio::msi, vfio::req, 5U, UINT32_MAX})
    CHECK(set(assign, index, 0, 1, {other.get()}) == EINVAL);
  create_pair(1);
  CHECK(drain_eventfd(vector.get()) > 0); // still the one assigned first
}

TEST_CASE_METHOD(Enabled, "vectors can be fired by hand") {
  const Fd one = assign_vector(1), two = assign_vector(2);
  CHECK(set(eventfds | trigger, vfio::err, 0, 2, {one.get(), two.get()}) == EINVAL);
  CHECK(set(none | mask, vfio::err, 0, 1) == EINVAL);
  CHECK(set(eventfds | trigger, vfio::err, 0, 1, {one.get()}) == 0);
  CHECK(set(none | trigger, vfio::err, 0, 1) == 0);
  CHECK(drain_eventfd(one.get()) == 1);
  CHECK(set(none | trigger, vfio::msix, 1, 1) == 0);
  CHECK(drain_eventfd(one.get()) == 1);
  CHECK(set(booleans | trigger, vfio::msix, 1, 2, {}, {0, 1}) == 0);
  CHECK(drain_eventfd(one.get()) == 0);
  CHECK(drain_eventfd(two.get()) == 1);
}

TEST_CASE_METHOD(Enabled, "a full eventfd does not stop the controller, blocking or not") {
  const Fd full(::eventfd(0, EFD_CLOEXEC | GENERATE(0, EFD_NONBLOCK)));
  const std::uint64_t most = UINT64_MAX - 1;
  REQUIRE(::write(full.get(), &most, sizeof most) == sizeof most);
  REQUIRE(set(eventfds | trigger, vfio::msix, 0, 1, {full.get()}) == 0);
  create_pair(1);
  std::uint64_t count = 0;
  REQUIRE(::read(full.get(), &count, sizeof count) == sizeof count);
  CHECK(count >= most); // one more is its overflow (eventfd(2)), which a counter of interrupts survives
}

TEST_CASE_METHOD(Enabled, "INTx rises with unread completions, once, and again after the client unmasks") {
  const Fd line = make_eventfd().value();
  write(vfio::config_region, 0x04, 2, 0x0006);
  REQUIRE(set(eventfds | trigger, vfio::intx, 0, 1, {line.get()}) == 0);
  put(admin_queue, flush());
  ring(admin_queue);
  poll();
  CHECK(drain_eventfd(line.get()) == 1);
  CHECK((read(vfio::config_region, 0x06, 2) & 0x08) != 0);
  put(admin_queue, flush());
  ring(admin_queue);
  poll();
  CHECK(drain_eventfd(line.get()) == 0); // automasked
  CHECK(set(none | unmask, vfio::intx, 0, 1) == 0);
  CHECK(drain_eventfd(line.get()) == 1); // still unread
  CHECK(take(admin_queue));
  CHECK(take(admin_queue));
  poll();
  CHECK((read(vfio::config_region, 0x06, 2) & 0x08) == 0);
  CHECK(set(none | unmask, vfio::intx, 0, 1) == 0);
  CHECK(drain_eventfd(line.get()) == 0);
  for (int i = 0; i < 2; ++i) { // the second time while it is masked
    put(admin_queue, flush());
    ring(admin_queue);
    poll();
    CHECK(take(admin_queue));
    poll();
  }
  CHECK(drain_eventfd(line.get()) == 1);
}

TEST_CASE_METHOD(Enabled, "INTx is held back by its masks") {
  const Fd line = make_eventfd().value(), resample = make_eventfd().value();
  const int how = GENERATE(0, 1, 2, 3);
  if (how != 1) write(vfio::config_region, 0x04, 2, 0x0006); // how 1: disabled in the command register
  REQUIRE(set(eventfds | trigger, vfio::intx, 0, 1, {line.get()}) == 0);
  if (how == 0) REQUIRE(set(none | mask, vfio::intx, 0, 1) == 0);
  if (how == 2) set_reg(0x0c, 1); // INTMS
  if (how == 3) {
    REQUIRE(set(eventfds | unmask, vfio::intx, 0, 1, {resample.get()}) == 0);
    REQUIRE(set(none | mask, vfio::intx, 0, 1) == 0);
  }
  put(admin_queue, flush());
  ring(admin_queue);
  poll();
  CHECK(drain_eventfd(line.get()) == 0);
  if (how == 0) CHECK(set(none | unmask, vfio::intx, 0, 1) == 0);
  if (how == 1) write(vfio::config_region, 0x04, 2, 0x0006);
  if (how == 2) set_reg(0x10, 1); // INTMC
  if (how == 3) signal_eventfd(resample.get());
  poll();
  CHECK(drain_eventfd(line.get()) == 1);
}

TEST_CASE_METHOD(Enabled, "INTx falls when the controller is reset, shut down or fails, whatever is unread") {
  const int how = GENERATE(0, 1, 2, 3, 4);
  const auto asserted = [this] { return (read(vfio::config_region, 0x06, 2) & 0x08) != 0; };
  write(vfio::config_region, 0x04, 2, 0x0006);
  put(admin_queue, flush());
  ring(admin_queue);
  poll();
  REQUIRE(asserted());
  if (how == 0) disable();
  if (how == 1) set_reg(0x14, 0x00464001); // CC.SHN
  if (how == 2) {
    unmap(base, memory_bytes); // what is fetched next is not there: CSTS.CFS
    put(admin_queue, flush());
    ring(admin_queue);
    poll();
    REQUIRE((reg(0x1c) & 2) != 0);
  }
  if (how == 3) CHECK(request(vfio::Reset{}));
  if (how == 4) write(vfio::config_region, 0x68, 2, 0x8000 | read(vfio::config_region, 0x68, 2)); // FLR
  CHECK_FALSE(asserted());
}
