// Interrupts: vectors one by one where the kernel wants them all at once, and the two that are not the client's.
#include "catch.hpp"
#include "checks.hpp"
#include "scripted_system.hpp"

using namespace testing;
using Strings = std::vector<std::string>;

namespace {

constexpr auto assign = irq_data_eventfd | irq_action_trigger;
constexpr auto nothing = irq_data_none | irq_action_trigger;

struct Bed : KernelBed {
  std::shared_ptr<kernel::Device> device;

  template <class Prepare> explicit Bed(Prepare prepare) {
    prepare(*system);
    device = open().value();
    system->calls();
  }
  Bed() : Bed([](ScriptedSystem&) {}) {}
  ~Bed() { close(device); }

  int set(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
          std::size_t eventfds = 0) {
    SetIrqs request{flags, index, start, count, {}, {}};
    for (std::size_t i = 0; i < eventfds; ++i) request.eventfds.push_back(make_eventfd().value());
    return number(*device, std::move(request));
  }
};

} // namespace

TEST_CASE("where vectors cannot be added later, the first allocates all of them") {
  Bed bed;
  CHECK(bed.set(assign, msix, 0, 1) == 0); // as QEMU begins
  CHECK(bed.system->calls() == Strings{"set_irqs 24 2 0+8 - - - - - - - -", "set_irqs 24 2 0+1 -"});
  CHECK(bed.set(assign, msix, 0, 1, 1) == 0);
  CHECK(bed.set(assign, msix, 7, 1, 1) == 0);
  CHECK(bed.set(assign, msix, 2, 2, 2) == 0);
  CHECK(bed.system->calls() == Strings{"set_irqs 24 2 0+1 fd", "set_irqs 24 2 7+1 fd", "set_irqs 24 2 2+2 fd fd"});
}

TEST_CASE("where vectors can be added later, each is allocated when it is used") {
  Bed bed([](ScriptedSystem& system) { system.msix_flags = irq_flag_eventfd; });
  CHECK(bed.set(assign, msix, 3, 1, 1) == 0);
  CHECK(bed.system->calls() == Strings{"set_irqs 24 2 3+1 fd"});
}

TEST_CASE("vectors that were disabled are allocated again by the next") {
  Bed bed;
  REQUIRE(bed.set(assign, msix, 0, 1, 1) == 0);
  bed.system->calls();
  CHECK(bed.set(nothing, msix, 0, 0) == 0);
  CHECK(bed.set(nothing, msix, 0, 0) == 0); // which the kernel would refuse
  CHECK(bed.set(assign, msix, 1, 1, 1) == 0);
  CHECK(bed.system->calls() ==
        Strings{"set_irqs 21 2 0+0", "set_irqs 24 2 0+8 - - - - - - - -", "set_irqs 24 2 1+1 fd"});
}

TEST_CASE("a host that has not enough vectors is an error") {
  Bed bed([](ScriptedSystem& system) { system.vectors_to_give = 4; });
  CHECK(bed.set(assign, msix, 0, 1, 1) == ENOSPC);
  CHECK(bed.set(assign, msix, 0, 1, 1) == ENOSPC);
}

TEST_CASE("vectors that do not exist, and eventfds that do not match them, are refused") {
  Bed bed;
  CHECK(bed.set(assign, msix, 8, 1, 1) == EINVAL);
  CHECK(bed.set(assign, msix, 7, 2, 2) == EINVAL);
  CHECK(bed.set(assign, msix, UINT32_MAX, 2, 2) == EINVAL);
  CHECK(bed.set(assign, msi, 0, 1, 1) == EINVAL); // the function has none
  CHECK(bed.set(assign, req, 0, 1, 1) == EINVAL);
  CHECK(bed.set(assign, 5, 0, 1, 1) == EINVAL);
  CHECK(bed.set(irq_data_bool | irq_action_trigger, msix, 0, 1) == EINVAL);
  CHECK(bed.system->calls().empty());
  CHECK(bed.set(assign, msix, 0, 2, 1) == EINVAL);
}

TEST_CASE("INTx: eventfd, mask, unmask by eventfd, and away with it") {
  Bed bed;
  CHECK(bed.set(assign, intx, 0, 1, 1) == 0);
  CHECK(bed.set(irq_data_none | irq_action_mask, intx, 0, 1) == 0);
  CHECK(bed.set(irq_data_eventfd | irq_action_unmask, intx, 0, 1, 1) == 0);
  CHECK(bed.set(irq_data_none | irq_action_unmask, intx, 0, 1) == 0);
  CHECK(bed.set(assign, intx, 0, 1) == 0);
  CHECK(bed.set(nothing, intx, 0, 0) == 0);
  CHECK(bed.system->calls() == Strings{"set_irqs 24 0 0+1 fd", "set_irqs 9 0 0+1", "set_irqs 14 0 0+1 fd",
                                       "set_irqs 11 0 0+1", "set_irqs 21 0 0+0"});
}

TEST_CASE("the kernel's wish to have the device back is not the client's to hear") {
  Bed bed;
  unsigned wanted = 0;
  bed.device->on_wanted_back([&wanted] { ++wanted; });
  CHECK(std::get<IrqInfo>(bed.ask(*bed.device, GetIrqInfo{req}).value()).count == 0);
  for (unsigned times = 1; times <= 2; ++times) {
    bed.system->signal(req);
    CHECK(bed.run_until([&wanted, times] { return wanted == times; }));
  }
}

TEST_CASE("an error of the device is told to its owner and to the client that asked for it") {
  Bed bed;
  unsigned errors = 0;
  bed.device->on_error([&errors] { ++errors; });
  const auto event = make_eventfd().value();
  SetIrqs request{assign, err, 0, 1, {}, {}};
  request.eventfds.push_back(event.duplicate().value());
  CHECK(bed.number(*bed.device, std::move(request)) == 0);
  CHECK(bed.system->calls().empty()); // the kernel keeps ours
  bed.system->signal(err);
  CHECK(bed.run_until([&errors] { return errors == 1; }));
  CHECK(drain_eventfd(event.get()) == 1);
  CHECK(bed.set(nothing, err, 0, 0) == 0);
  bed.system->signal(err);
  CHECK(bed.run_until([&errors] { return errors == 2; }));
  CHECK_FALSE(readable(event.get()));
  CHECK(bed.set(assign, err, 0, 2, 2) == EINVAL);
  CHECK(bed.set(assign, err, 1, 1, 1) == EINVAL);
}
