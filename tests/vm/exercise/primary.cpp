// primary RUN_DIR DEVICE COUNT : borrows an NVMe controller that can have virtual functions, and brings COUNT of them
// online: 2 queues and 1 interrupt vector each (Virtualization Management, NVM Express 1.4, 5.22). Prints "online",
// then does nothing until SIGTERM comes.
#include "access.hpp"
#include "queue.hpp"
#include "result.hpp"
#include "text.hpp"
#include "under_way.hpp"

#include <linux/pci_regs.h>

namespace exercise {
namespace {

using smartio::Errc;
using smartio::fail;

constexpr unsigned entries = 8;
constexpr std::uint8_t virtualization_management = 0x1c;
enum Action : std::uint32_t { offline = 7, assign = 8, online = 9 };
enum Resource : std::uint32_t { queues = 0, vectors = 1 };

Result<nvme::Queue> start(const smartio::Device& device, const Registers& registers) {
  const auto command = TRY(device.read_config(PCI_COMMAND, 2));
  TRY(device.write_config(PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER));
  TRY(registers.set(nvme::reg_cc, 0));
  TRY(registers.await(nvme::reg_csts, nvme::csts_ready, 0, "the controller is disabled"));
  const std::uint64_t capabilities = TRY(registers.get(nvme::reg_cap + 4));
  auto admin = TRY(nvme::Queue::make(device, registers.bar(), 0, entries, nvme::cap_dstrd(capabilities << 32)));
  TRY(registers.set(nvme::reg_aqa, (entries - 1) << 16 | (entries - 1)));
  for (const auto& [reg, iova] :
       {std::pair(nvme::reg_asq, admin.submission_iova()), std::pair(nvme::reg_acq, admin.completion_iova())}) {
    TRY(registers.set(reg, static_cast<std::uint32_t>(iova)));
    TRY(registers.set(reg + 4, static_cast<std::uint32_t>(iova >> 32)));
  }
  TRY(registers.set(nvme::reg_cc, nvme::cc_entry_sizes | nvme::cc_enable));
  TRY(registers.await(nvme::reg_csts, nvme::csts_ready, nvme::csts_ready, "the controller is ready"));
  return admin;
}

Result<void> manage(nvme::Queue& admin, unsigned controller, Action action, Resource resource, unsigned count) {
  TRY(admin.submit(
      {.opcode = virtualization_management, .cdw10 = controller << 16 | resource << 8 | action, .cdw11 = count}));
  std::optional<nvme::Completion> completion;
  const auto completed = [&admin, &completion]() -> Result<bool> {
    completion = TRY(admin.poll());
    return completion.has_value();
  };
  TRY(await(completed, "virtualization management"));
  if (nvme::succeeded(completion->status)) return {};
  return fail(Errc::bad_request, "controller {}, action {}: {}", controller, static_cast<unsigned>(action),
              nvme::status_text(completion->status));
}

Result<void> bring_online(nvme::Queue& admin, unsigned controller) {
  TRY(manage(admin, controller, offline, queues, 0));
  TRY(manage(admin, controller, assign, queues, 2));
  TRY(manage(admin, controller, assign, vectors, 1));
  return manage(admin, controller, online, queues, 0);
}

Result<void> run(const std::string& run_dir, const std::string& name, const std::string& number) {
  const auto count = smartio::parse_number(number, 10, 127);
  if (!count) return fail(Errc::bad_request, "{} is no number of virtual functions", number);
  const auto id = TRY(smartio::parse_device_id(name));
  const auto node = TRY(smartio::Node::attach(run_dir));
  const auto device = TRY(node.borrow(id));
  const Registers registers(TRY(device.map_bar(0)));
  auto admin = TRY(start(device, registers));
  for (unsigned controller = 1; controller <= *count; ++controller) TRY(bring_online(admin, controller));
  under_way("online");
  await_end();
  return registers.set(nvme::reg_cc, 0); // it no longer touches the memory that goes now
}

} // namespace
} // namespace exercise

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("Usage: primary RUN_DIR DEVICE COUNT\n", stderr);
    return 2;
  }
  exercise::block_end();
  const auto done = exercise::run(argv[1], argv[2], argv[3]);
  if (!done) std::fprintf(stderr, "primary: %s\n", smartio::to_string(done.error()).c_str());
  return done ? 0 : 1;
}
