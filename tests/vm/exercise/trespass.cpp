// trespass RUN_DIR DEVICE MODE [ARGUMENT] : a borrower that goes where it must not, or does not let go. DEVICE is one
// of the node of RUN_DIR, or vfio-user:PATH; QEMU's teaching device, but for `keep`. Prints one line when it is under
// way; exits with 0 only if the memory it watches stayed as it was.
//   unmapped     lets the device write where a window was that is unmapped
//   hold         gives the device back, keeps the memory and looks at it when SIGTERM comes; the line is the IOVA
//   aim IOVA     lets the device write to IOVA, where this program has mapped nothing
//   stream FILE  lets the device write to FILE without end
//   keep         maps what it may of the registers, says how many bytes, and does nothing else until SIGTERM comes
#include "edu_dma.hpp"
#include "fd.hpp"
#include "result.hpp"
#include "text.hpp"
#include "under_way.hpp"

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

constexpr std::size_t size = EduDma::size;

struct Arguments {
  std::string run_dir, device, mode, argument;
};

Result<Device> open(const Arguments& arguments) {
  if (arguments.device.starts_with("vfio-user:")) return smartio::open_device(arguments.device);
  const auto id = TRY(smartio::parse_device_id(arguments.device));
  const auto node = TRY(smartio::Node::attach(arguments.run_dir));
  return node.borrow(id);
}

std::uint64_t address(const smartio::DmaWindow& window) { return std::to_underlying(window.iova()); }

/// The device writes a pattern to memory where it may; then the memory gets another one.
Result<void> use(const EduDma& edu, const Memory& memory, const smartio::DmaWindow& window) {
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
  const auto edu = TRY(EduDma::make(device));
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
  const auto edu = TRY(EduDma::make(device));
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
  const auto edu = TRY(EduDma::make(device));
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
  const auto edu = TRY(EduDma::make(device));
  const auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  TRY(use(edu, memory, window));
  TRY(edu.begin_write(address(window)));
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
