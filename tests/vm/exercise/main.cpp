// exercise RUN_DIR DEVICE KIND : borrows a device from the node of RUN_DIR (or opens vfio-user:PATH), drives it in
// every way a driver does, resets it, does it all again, gives it back. Prints one line of JSON with what was verified;
// exits with 0 only if all of it held. The content of a disk is lost.
#include "report.hpp"
#include "result.hpp"
#include "subject.hpp"
#include "text.hpp"

#include <algorithm>
#include <cstdio>
#include <linux/pci_regs.h>
#include <poll.h>
#include <unistd.h>

namespace exercise {
namespace {

using namespace std::chrono_literals;
using smartio::Device;
using smartio::Errc;
using smartio::fail;

// PCI command register (PCI Express Base 5.0, 7.5.1.1.3).

Result<void> let_device_work(const Device& device) {
  const auto command = TRY(device.read_config(PCI_COMMAND, 2));
  return device.write_config(PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

Result<void> await_interrupt(const smartio::Interrupt& interrupt) {
  pollfd event{interrupt.fd(), POLLIN, 0};
  if (::poll(&event, 1, 5000) != 1) return fail(Errc::timed_out, "No interrupt within 5 s");
  std::uint64_t count = 0;
  if (::read(interrupt.fd(), &count, sizeof count) != sizeof count)
    return smartio::fail_errno(errno, "read an eventfd");
  return {};
}

Result<void> forget_interrupts(Subject& subject, const smartio::Interrupt& interrupt) {
  TRY(subject.acknowledge_interrupt());
  pollfd event{interrupt.fd(), POLLIN, 0};
  if (::poll(&event, 1, 0) == 1) TRY(await_interrupt(interrupt));
  return interrupt.rearm();
}

// Twice, since the second one needs what the first one left.
Result<void> exercise_interrupt(Subject& subject, const smartio::Interrupt& interrupt) {
  TRY(forget_interrupts(subject, interrupt));
  for (int round = 0; round < 2; ++round) {
    TRY(subject.raise_interrupt());
    TRY(await_interrupt(interrupt));
    TRY(subject.acknowledge_interrupt());
    TRY(interrupt.rearm());
  }
  return {};
}

Result<void> exercise_once(Subject& subject, const smartio::Interrupt& interrupt, std::uint32_t seed, Report& report) {
  TRY(subject.start());
  report.device_writes_memory = TRY(subject.device_writes_memory(seed));
  report.device_reads_memory = TRY(subject.device_reads_memory(seed + 1));
  return exercise_interrupt(subject, interrupt);
}

Result<void> exercise_device(const Device& device, std::string_view kind, Report& report) {
  TRY(let_device_work(device));
  TRY(look_at_registers(device, report));
  const auto subject = TRY(make_subject(kind, device));
  const auto interrupt = TRY(device.interrupt(0));
  TRY(exercise_once(*subject, interrupt, 1, report));
  report.interrupts = true;
  TRY(device.reset());
  TRY(let_device_work(device));
  TRY(subject->check_reset());
  TRY(exercise_once(*subject, interrupt, 3, report));
  report.reset = true;
  return device.reset(); // it no longer touches the memory that goes now
}

Result<smartio::DeviceState> state_of(const smartio::Node& node, smartio::DeviceId id) {
  for (const auto& known : TRY(node.devices()))
    if (known.id == id) return known.state;
  return fail(Errc::no_such_device, "The device is not in the list");
}

Result<void> borrow_and_exercise(const smartio::Node& node, smartio::DeviceId id, std::string_view kind,
                                 Report& report) {
  const auto device = TRY(node.borrow(id));
  return exercise_device(device, kind, report);
}

Result<void> run(const std::string& run_dir, const std::string& name, std::string_view kind, Report& report) {
  if (name.starts_with("vfio-user:")) {
    const auto device = TRY(smartio::open_device(name));
    return exercise_device(device, kind, report);
  }
  const auto id = TRY(smartio::parse_device_id(name));
  const auto node = TRY(smartio::Node::attach(run_dir));
  const auto before = TRY(state_of(node, id));
  TRY(borrow_and_exercise(node, id, kind, report));
  const auto given_back = [&node, id, before]() -> Result<bool> { return TRY(state_of(node, id)) == before; };
  return await(given_back, "the device is given back");
}

} // namespace
} // namespace exercise

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("Usage: exercise RUN_DIR DEVICE nvme|edu|e1000|e1000e|igb|igbvf\n", stderr);
    return 2;
  }
  exercise::Report report{.device = argv[2], .kind = argv[3]};
  const auto done = exercise::run(argv[1], argv[2], argv[3], report);
  std::puts(to_json(report, done.has_value()).c_str());
  if (!done) std::fprintf(stderr, "exercise: %s\n", smartio::to_string(done.error()).c_str());
  return done ? 0 : 1;
}
