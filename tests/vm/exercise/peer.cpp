// peer RUN_DIR EDU NVME MODE : borrows QEMU's teaching device and an NVMe controller that has a controller memory
// buffer (BAR 2), and lets the first reach the second's registers and memory without any memory of the host.
//   reach  everything there is to verify; "verified" at the end
//   hold   verifies once, prints the IOVA it wrote to, waits for SIGTERM, and lets the device write there again
#include "edu_dma.hpp"
#include "text.hpp"
#include "under_way.hpp"

#include <algorithm>
#include <linux/pci_regs.h>
#include <optional>
#include <vector>

namespace exercise {
namespace {

using smartio::Device;
using smartio::Errc;
using smartio::fail;
using smartio::Memory;

constexpr std::size_t size = EduDma::size;
constexpr unsigned registers_bar = 0, memory_bar = 2;
constexpr std::size_t place = 3 * size; // of the memory that is written

std::uint64_t address(const smartio::DmaWindow& window, std::size_t offset = 0) {
  return std::to_underlying(window.iova()) + offset;
}

/// Loads and stores of this program, which must have it mapped.
Result<std::span<volatile std::byte>> mapped(const smartio::BarMapping& bar, std::size_t offset) {
  auto* at = bar.mapped(offset, size);
  if (at == nullptr) return fail(Errc::bad_request, "The target's memory is not mapped");
  return std::span(at, size);
}

struct Pair {
  Device edu, nvme;
  EduDma dma;
  Memory memory;
  smartio::DmaWindow window;     // onto `memory`
  smartio::BarMapping registers; // of the NVMe
  smartio::BarMapping buffer;

  static Result<Pair> make(Device edu, Device nvme) {
    const auto command = TRY(nvme.read_config(PCI_COMMAND, 2));
    TRY(nvme.write_config(PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY));
    auto dma = TRY(EduDma::make(edu));
    auto memory = TRY(Memory::allocate(size));
    auto window = TRY(edu.map_dma(memory, smartio::Access::read_write));
    auto registers = TRY(nvme.map_bar(registers_bar));
    auto buffer = TRY(nvme.map_bar(memory_bar));
    return Pair{std::move(edu),    std::move(nvme),      std::move(dma),   std::move(memory),
                std::move(window), std::move(registers), std::move(buffer)};
  }
};

/// What the device reads of the registers is what this program reads: the capabilities and the version.
Result<void> check_registers(const Pair& pair, const smartio::DmaWindow& onto) {
  fill(pair.memory.bytes(), 1);
  TRY(pair.dma.read(address(onto)));
  TRY(pair.dma.write(address(pair.window)));
  for (const std::size_t offset : {0, 4, 8}) {
    std::uint32_t seen = 0;
    std::memcpy(&seen, pair.memory.bytes().data() + offset, sizeof seen);
    const auto is = TRY(pair.registers.read(offset, 4));
    if (seen != is)
      return fail(Errc::bad_request, "The device reads {:#x} at {:#x} of the registers, not {:#x}", seen, offset, is);
  }
  return {};
}

/// The device writes the target's memory, and reads what this program stored there.
Result<void> check_memory(const Pair& pair, const smartio::DmaWindow& onto, std::uint32_t seed) {
  const auto there = TRY(mapped(pair.buffer, place));
  fill(pair.memory.bytes(), seed);
  TRY(pair.dma.read(address(pair.window)));
  TRY(pair.dma.write(address(onto, place)));
  std::vector<std::byte> copy(size);
  std::ranges::copy(there, copy.begin());
  TRY(check_pattern(copy, seed, "the device wrote the target's memory"));
  fill(copy, seed + 1);
  std::ranges::copy(copy, there.begin());
  TRY(pair.dma.read(address(onto, place)));
  TRY(pair.dma.write(address(pair.window)));
  return check_pattern(pair.memory.bytes(), seed + 1, "the device read the target's memory");
}

Result<void> reach(const Pair& pair) {
  const auto registers = TRY(pair.edu.map_bar_of(pair.nvme, registers_bar, smartio::Access::read));
  std::optional<smartio::DmaWindow> memory =
      TRY(pair.edu.map_bar_of(pair.nvme, memory_bar, smartio::Access::read_write));
  for (std::uint32_t round = 1; round <= 3; ++round) { // the windows are there again after a reset
    TRY(check_registers(pair, registers));
    TRY(check_memory(pair, *memory, 10 * round));
    if (round < 3) TRY(pair.nvme.reset());
  }
  const auto iova = address(*memory, place);
  memory.reset();
  TRY(pair.dma.write(iova)); // a pattern that is there no longer
  const auto there = TRY(mapped(pair.buffer, place));
  std::vector<std::byte> copy(size);
  std::ranges::copy(there, copy.begin());
  TRY(check_pattern(copy, 31, "the target's memory after the window's end"));
  TRY(check_registers(pair, registers));
  under_way("verified");
  return {};
}

Result<void> hold(const Pair& pair) {
  const auto memory = TRY(pair.edu.map_bar_of(pair.nvme, memory_bar, smartio::Access::read_write));
  TRY(check_memory(pair, memory, 1));
  under_way(fmt::format("{:x}", address(memory, place)));
  await_end();
  return pair.dma.write(address(memory, place));
}

Result<void> run(const std::string& run_dir, const std::string& edu, const std::string& nvme, std::string_view mode) {
  const auto node = TRY(smartio::Node::attach(run_dir));
  const auto edu_id = TRY(smartio::parse_device_id(edu));
  const auto nvme_id = TRY(smartio::parse_device_id(nvme));
  auto mover = TRY(node.borrow(edu_id));
  auto target = TRY(node.borrow(nvme_id));
  const auto pair = TRY(Pair::make(std::move(mover), std::move(target)));
  if (mode == "reach") return reach(pair);
  if (mode == "hold") return hold(pair);
  return fail(Errc::bad_request, "There is no mode {}", mode);
}

} // namespace
} // namespace exercise

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fputs("Usage: peer RUN_DIR EDU NVME reach|hold\n", stderr);
    return 2;
  }
  exercise::block_end();
  const auto done = exercise::run(argv[1], argv[2], argv[3], argv[4]);
  if (!done) std::fprintf(stderr, "peer: %s\n", smartio::to_string(done.error()).c_str());
  return done ? 0 : 1;
}
