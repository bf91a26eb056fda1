// trespass RUN_DIR DEVICE MODE [ARGUMENT] : a borrower that goes where it must not, or does not let go. DEVICE is one
// of the node of RUN_DIR, or vfio-user:PATH; QEMU's teaching device, but for `keep`. Prints one line when it is under
// way; exits with 0 only if the memory it watches stayed as it was.
//   unmapped     lets the device write where a window was that is unmapped
//   hold         gives the device back, keeps the memory and looks at it when SIGTERM comes; the line is the IOVA
//   aim IOVA     lets the device write to IOVA, where this program has mapped nothing
//   stream FILE  lets the device write to FILE without end
//   keep         maps what it may of the registers, says how many bytes, and does nothing else until SIGTERM comes
#include "access.hpp"
#include "fd.hpp"
#include "result.hpp"
#include "text.hpp"

#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace exercise {
namespace {

using smartio::Device;
using smartio::Errc;
using smartio::fail;
using smartio::Memory;

// docs/specs/edu.rst of QEMU. A transfer takes 100 ms.
constexpr std::size_t reg_source = 0x80, reg_target = 0x88, reg_count = 0x90, reg_command = 0x98;
constexpr std::uint32_t start = 1, to_memory = 2;
constexpr std::uint64_t own_buffer = 0x40000;
constexpr std::size_t size = 4096;
constexpr std::uint16_t pci_command = 0x04; // PCI Express Base 5.0, 7.5.1.1.3
constexpr std::uint32_t memory_space_and_bus_master = 6;

struct Arguments {
  std::string run_dir, device, mode, argument;
};

Result<Device> open(const Arguments& arguments) {
  if (arguments.device.starts_with("vfio-user:")) return smartio::open_device(arguments.device);
  const auto id = TRY(smartio::parse_device_id(arguments.device));
  const auto node = TRY(smartio::Node::attach(arguments.run_dir));
  return node.borrow(id);
}

void under_way(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void await_end() {
  ::sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  int number = 0;
  ::sigwait(&ends, &number);
}

class Edu {
public:
  static Result<Edu> make(Device device) {
    const auto command = TRY(device.read_config(pci_command, 2));
    TRY(device.write_config(pci_command, 2, command | memory_space_and_bus_master));
    return Edu(Registers(TRY(device.map_bar(0))));
  }
  Result<void> begin(std::uint64_t source, std::uint64_t target, std::uint32_t direction) const {
    TRY(registers_.bar().write(reg_source, 8, source));
    TRY(registers_.bar().write(reg_target, 8, target));
    TRY(registers_.set(reg_count, size));
    return registers_.set(reg_command, start | direction);
  }
  Result<void> done() const { return registers_.await(reg_command, start, 0, "edu moves data"); }
  Result<void> read(std::uint64_t iova) const {
    TRY(begin(iova, own_buffer, 0));
    return done();
  }
  Result<void> write(std::uint64_t iova) const {
    TRY(begin(own_buffer, iova, to_memory));
    return done();
  }

private:
  explicit Edu(Registers registers) : registers_(std::move(registers)) {}
  Registers registers_;
};

std::uint64_t address(const smartio::DmaWindow& window) { return std::to_underlying(window.iova()); }

/// The device writes a pattern to memory where it may; then the memory gets another one.
Result<void> use(const Edu& edu, const Memory& memory, const smartio::DmaWindow& window) {
  fill(memory.bytes(), 1);
  TRY(edu.read(address(window)));
  fill(memory.bytes(), 2);
  TRY(edu.write(address(window)));
  TRY(check_pattern(memory.bytes(), 1, "the device wrote memory"));
  fill(memory.bytes(), 3);
  return {};
}

Result<void> check_untouched(const Memory& memory) {
  return check_pattern(memory.bytes(), 3, "memory the device must not reach");
}

Result<void> unmapped(const Arguments& arguments) {
  const auto device = TRY(open(arguments));
  const auto edu = TRY(Edu::make(device));
  const auto memory = TRY(Memory::allocate(size));
  std::optional window = TRY(device.map_dma(memory, smartio::Access::read_write));
  const auto iova = address(*window);
  TRY(use(edu, memory, *window));
  window.reset();
  under_way(fmt::format("{:x}", iova));
  TRY(edu.write(iova));
  return check_untouched(memory);
}

Result<std::uint64_t> use_once(const Arguments& arguments, const Memory& memory) {
  const auto device = TRY(open(arguments));
  const auto edu = TRY(Edu::make(device));
  const auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  TRY(use(edu, memory, window));
  return address(window);
}

Result<void> hold(const Arguments& arguments) {
  const auto memory = TRY(Memory::allocate(size));
  const auto iova = TRY(use_once(arguments, memory));
  under_way(fmt::format("{:x}", iova));
  await_end();
  return check_untouched(memory);
}

Result<void> aim(const Arguments& arguments) {
  const auto iova = smartio::parse_number(arguments.argument, 16, UINT64_MAX);
  if (!iova) return fail(Errc::bad_request, "{} is no address", arguments.argument);
  const auto device = TRY(open(arguments));
  const auto edu = TRY(Edu::make(device));
  const auto memory = TRY(Memory::allocate(size));
  const auto elsewhere = smartio::Iova{*iova + (std::uint64_t{1} << 30)};
  const auto window = TRY(device.map_dma_at(elsewhere, memory, smartio::Access::read_write));
  TRY(use(edu, memory, window));
  TRY(edu.write(*iova));
  return check_untouched(memory);
}

Result<void> stream(const Arguments& arguments) {
  const smartio::Fd file(::open(arguments.argument.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return smartio::fail_errno(errno, "open " + arguments.argument);
  const auto memory = TRY(Memory::from_fd(file.get(), 0, size));
  const auto device = TRY(open(arguments));
  const auto edu = TRY(Edu::make(device));
  const auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  TRY(use(edu, memory, window));
  TRY(edu.begin(own_buffer, address(window), to_memory));
  under_way("streams");
  pollfd revoked{device.revoked_fd(), POLLIN, 0};
  while (::poll(&revoked, 1, 0) == 0) TRY(edu.write(address(window)));
  return fail(Errc::revoked, "The device was taken back");
}

Result<void> keep(const Arguments& arguments) {
  const auto device = TRY(open(arguments));
  const auto bar = TRY(device.map_bar(0));
  std::size_t mapped = 0;
  for (const auto& area : bar.areas()) mapped += area.bytes.size();
  under_way(fmt::format("keeps {} bytes", mapped));
  await_end();
  return {};
}

Result<void> run(const Arguments& arguments) {
  if (arguments.mode == "unmapped") return unmapped(arguments);
  if (arguments.mode == "hold") return hold(arguments);
  if (arguments.mode == "aim") return aim(arguments);
  if (arguments.mode == "stream") return stream(arguments);
  if (arguments.mode == "keep") return keep(arguments);
  return fail(Errc::bad_request, "There is no mode {}", arguments.mode);
}

void block_end() { // before there are threads
  ::sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);
}

} // namespace
} // namespace exercise

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fputs("Usage: trespass RUN_DIR DEVICE unmapped|hold|aim IOVA|stream FILE|keep\n", stderr);
    return 2;
  }
  exercise::block_end();
  const auto done = exercise::run({argv[1], argv[2], argv[3], argc == 5 ? argv[4] : ""});
  if (!done) std::fprintf(stderr, "trespass: %s\n", smartio::to_string(done.error()).c_str());
  return done ? 0 : 1;
}
