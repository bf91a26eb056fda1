// Drives a device that is bound to vfio-pci through vfio/kernel, one request after the other, and says what it saw: for
// guests with real VFIO. vfio_probe BDF-OF-NVME [auto|type1|iommufd] [BDF-OF-EDU|hold]. With QEMU's educational device
// (edu), that reads the NVMe's registers by DMA, too. With hold, the device is only held until the kernel wants it
// back. Needs 515 free huge pages of 2 MiB. Exit status 0: everything was as it should be.
#include "kernel/device.hpp"
#include "mapping.hpp"

#include "checks.hpp"

#include <cstdio>
#include <cstring>
#include <sys/mman.h>

using namespace smartio;
using namespace smartio::vfio;

namespace {

unsigned failures = 0;

void check(bool good, const char* what) {
  std::printf("%s %s\n", good ? "ok  " : "FAIL", what);
  std::fflush(stdout);
  failures += good ? 0 : 1;
}

/// One device, driven synchronously.
struct Driven {
  boost::asio::io_context& io;
  std::shared_ptr<kernel::Device> device;

  template <class Wanted> void run_until(Wanted wanted) {
    while (!wanted()) io.run_one();
  }
  Reply ask(Request request) {
    std::optional<Reply> reply;
    device->submit(std::move(request), [&reply](Reply answer) { reply = std::move(answer); });
    run_until([&reply] { return reply.has_value(); });
    return std::move(*reply);
  }
  int number(Request request) {
    const auto reply = ask(std::move(request));
    return reply ? 0 : reply.error();
  }
  std::uint64_t read(std::uint32_t region, std::uint64_t offset, std::uint32_t bytes) {
    const auto reply = ask(RegionRead{region, offset, bytes});
    std::uint64_t value = 0;
    if (const auto* data = reply ? std::get_if<Data>(&*reply) : nullptr) std::memcpy(&value, data->bytes.data(), bytes);
    return value;
  }
  void write(std::uint32_t region, std::uint64_t offset, std::uint32_t bytes, std::uint64_t value) {
    std::vector<std::byte> data(bytes);
    std::memcpy(data.data(), &value, bytes);
    check(ask(RegionWrite{region, offset, data}).has_value(), "register written");
  }
  void bus_master() { write(config_region, 4, 2, read(config_region, 4, 2) | 4); }
  RegionInfo region(std::uint32_t index) {
    auto reply = ask(GetRegionInfo{index});
    auto* info = reply ? std::get_if<RegionInfo>(&*reply) : nullptr;
    return info != nullptr ? std::move(*info) : RegionInfo{};
  }
  void close() {
    bool closed = false;
    device->close([&closed] { closed = true; });
    run_until([&closed] { return closed; });
    device.reset();
  }
};

std::optional<Driven> open(boost::asio::io_context& io, const char* bdf, kernel::Interface interface) {
  std::optional<Result<std::shared_ptr<kernel::Device>>> opened;
  kernel::Device::open(io, kernel::real_system(), {.bdf = parse_bdf(bdf).value_or(Bdf{}), .interface = interface},
                       [&opened](auto result) { opened = std::move(result); });
  while (!opened) io.run_one();
  if (!*opened) {
    std::printf("FAIL open %s: %s\n", bdf, to_string(opened->error()).c_str());
    ++failures;
    return std::nullopt;
  }
  const auto device = **opened;
  device->on_failure([](const Error& error) { std::printf("     (%s)\n", to_string(error).c_str()); });
  std::printf("%s: %s, group %u, addresses", bdf, kernel::to_string(device->interface()), device->group());
  for (const auto& range : device->iova_ranges())
    std::printf(" %llx-%llx", static_cast<unsigned long long>(range.first),
                static_cast<unsigned long long>(range.last));
  std::printf("\n");
  return Driven{io, device};
}

struct Memory {
  Fd fd;
  Mapping mapping;
  explicit Memory(std::size_t size, bool huge = false)
      : fd(make_memfd("probe", size, huge).value()), mapping(Mapping::map(fd.get(), 0, size).value()) {}
  std::byte* at(std::size_t offset) const { return mapping.bytes().data() + offset; }
  DmaMap window(std::uint64_t iova) const {
    return {Iova{iova}, mapping.bytes().size(), Access::read_write, fd.duplicate().value()};
  }
};

constexpr std::uint64_t queues_at = 0x100000, data_at = 0x40000000;

/// Registers and queues of NVM Express 1.4, as far as one admin command at a time needs them.
struct Nvme {
  Driven& device;
  Memory queues{0x2000}, data;
  Fd vector = make_eventfd().value();
  unsigned tail = 0;

  Nvme(Driven& driven, bool huge) : device(driven), data(huge ? 0x200000 : 0x10000, huge) {}

  void start() {
    device.bus_master();
    device.write(0, 0x24, 4, 0x000f000f); // AQA: 16 entries each
    device.write(0, 0x28, 8, queues_at);  // ASQ
    device.write(0, 0x30, 8, queues_at + 0x1000);
    device.write(0, 0x14, 4, 0x00460001); // CC: enable, entries of 64 and 16 bytes
    for (int i = 0; i < 1000 && (device.read(0, 0x1c, 4) & 1) == 0; ++i) ::usleep(1000);
    check((device.read(0, 0x1c, 4) & 1) == 1, "controller ready");
  }
  /// Identify controller, to `iova`; whether the vector fired.
  bool identify(std::uint64_t iova) {
    std::array<std::uint32_t, 16> command{};
    command[0] = 6 | (tail + 1) << 16;
    std::memcpy(&command[6], &iova, sizeof iova);
    command[10] = 1;
    std::memcpy(queues.at(tail * 64), command.data(), 64);
    device.write(0, 0x1000, 4, ++tail);
    const bool fired = testing::readable(vector.get(), 5000);
    drain_eventfd(vector.get());
    device.write(0, 0x1004, 4, tail);
    return fired;
  }
};

void drive_interrupts(Nvme& nvme) {
  auto& device = nvme.device;
  constexpr auto assign = irq_data_eventfd | irq_action_trigger;
  check(device.number(SetIrqs{assign, msix, 0, 1, {}, {}}) == 0, "MSI-X on, without an eventfd");
  const auto reply = device.ask(GetIrqInfo{msix});
  const auto info = std::get<IrqInfo>(*reply);
  std::printf("     %u vectors, flags %x\n", info.count, info.flags);
  for (std::uint32_t i = 0; i < info.count; i += info.count - 1) {
    SetIrqs set{assign, msix, i, 1, {}, {}};
    set.eventfds.push_back(i == 0 ? nvme.vector.duplicate().value() : make_eventfd().value());
    check(device.number(std::move(set)) == 0, "one vector assigned");
    if (info.count == 1) break;
  }
}

void drive_windows(Nvme& nvme) {
  auto& device = nvme.device;
  check(device.number(nvme.queues.window(queues_at)) == 0, "queues mapped");
  check(device.number(nvme.data.window(data_at)) == 0, "data mapped");
  check(device.number(nvme.data.window(data_at)) == EEXIST, "mapped twice: EEXIST");
  check(device.number(nvme.queues.window(0xfee00000)) == EINVAL, "reserved addresses: EINVAL");
  check(device.number(nvme.queues.window(UINT64_MAX - 0xfff)) == EINVAL, "beyond the end: EINVAL");
  check(device.number(DmaUnmap{Iova{queues_at}, 0x1000}) == EINVAL, "half a window unmapped: EINVAL");
  check(device.number(DmaUnmap{Iova{0x9000000}, 0x1000}) == 0, "nothing unmapped");
}

/// A window of more than a GiB, which the kernel gets in two pieces: the device reaches both, until it is unmapped.
void drive_large_window(Nvme& nvme) {
  constexpr std::uint64_t large_at = 0x100000000, gib = 1 << 30;
  constexpr std::uint64_t huge_page = 0x200000;
  const Memory large(gib + huge_page, true);
  // The emulated processor takes seconds to clear these pages, longer than a request may.
  for (std::uint64_t at = 0; at <= gib; at += huge_page) *large.at(at) = std::byte{1};
  check(nvme.device.number(large.window(large_at)) == 0, "more than a GiB mapped");
  for (const auto offset : {std::uint64_t{0}, gib - 0x1000, gib}) {
    nvme.identify(large_at + offset);
    check(std::memcmp(large.at(offset + 4), "DISK1", 5) == 0, "the serial number is in a piece of it");
    std::memset(large.at(offset), 0, 0x1000);
  }
  check(nvme.device.number(DmaUnmap{Iova{large_at}, gib}) == EINVAL, "one piece of it unmapped: EINVAL");
  check(nvme.device.number(DmaUnmap{Iova{large_at}, gib + huge_page}) == 0, "all of it unmapped");
  for (const auto offset : {std::uint64_t{0}, gib - 0x1000, gib}) {
    nvme.identify(large_at + offset);
    check(std::memcmp(large.at(offset + 4), "DISK1", 5) != 0, "no piece of it is reached");
  }
}

void drive_nvme(Driven& device, bool huge) {
  Nvme nvme(device, huge);
  drive_windows(nvme);
  drive_interrupts(nvme);
  nvme.start();
  check(nvme.identify(data_at), "interrupt after Identify");
  check(std::memcmp(nvme.data.at(4), "DISK1", 5) == 0, "the serial number is in memory");
  check(device.number(DmaUnmap{Iova{data_at}, nvme.data.mapping.bytes().size()}) == 0, "data unmapped");
  std::memset(nvme.data.at(0), 0, 4096);
  nvme.identify(data_at);
  check(std::memcmp(nvme.data.at(4), "DISK1", 5) != 0, "an unmapped window is not reached");
  if (huge) drive_large_window(nvme);
  check(device.number(Reset{}) == 0, "reset");
  check((device.read(0, 0x1c, 4) & 1) == 0, "controller not ready after reset");
  check((device.read(config_region, 4, 2) & 6) == 2, "after reset memory space is on, bus mastering off");
  check(device.number(DmaUnmap{Iova{}, 0, true}) == 0, "everything unmapped");
}

void drive_registers(Driven& device) {
  const auto info = device.region(0);
  check(!info.areas.empty() && info.fd, "BAR 0 can be mapped");
  for (const auto& area : info.areas)
    std::printf("     area %llx+%llx, descriptor offset %llx\n", static_cast<unsigned long long>(area.offset),
                static_cast<unsigned long long>(area.size), static_cast<unsigned long long>(info.fd_offset));
  if (info.areas.empty()) return;
  const auto mapping = Mapping::map(info.fd.get(), info.fd_offset, 4096);
  check(mapping.has_value(), "BAR 0 mapped");
  if (!mapping) return;
  const auto version = *reinterpret_cast<volatile std::uint32_t*>(mapping->bytes().data() + 8);
  check(version == device.read(0, 8, 4) && version != UINT32_MAX, "loads see what reads see");
}

/// Reads the NVMe's version register through edu's DMA engine into memory (QEMU docs/specs/edu.rst).
std::uint32_t version_by_dma(Driven& edu, Memory& memory, std::uint64_t registers, std::uint64_t to) {
  const auto transfer = [&edu](std::uint64_t from, std::uint64_t dest, std::uint64_t command) {
    edu.write(0, 0x80, 8, from);
    edu.write(0, 0x88, 8, dest);
    edu.write(0, 0x90, 8, 4);
    edu.write(0, 0x98, 8, command);
    for (int i = 0; i < 2000 && (edu.read(0, 0x98, 8) & 1) != 0; ++i) ::usleep(1000);
  };
  std::memset(memory.at(0), 0, 4);
  transfer(registers + 8, 0x40000, 1);
  transfer(0x40000, to, 3);
  std::uint32_t value;
  std::memcpy(&value, memory.at(0), sizeof value);
  return value;
}

void drive_peers(Driven& nvme, Driven& edu) {
  Memory memory(0x1000);
  const auto map_registers = [&nvme, &edu] {
    auto info = nvme.region(0);
    return edu.number(DmaMap{Iova{0xa0000000}, 0x1000, Access::read_write, std::move(info.fd), info.fd_offset});
  };
  edu.bus_master();
  check(edu.number(memory.window(0x20000000)) == 0, "memory mapped for edu");
  check(map_registers() == 0, "the NVMe's registers mapped for edu");
  const auto version = static_cast<std::uint32_t>(nvme.read(0, 8, 4));
  check(version_by_dma(edu, memory, 0xa0000000, 0x20000000) == version, "edu read them by DMA");
  check(nvme.number(Reset{}) == 0, "NVMe reset");
  std::printf("     after the reset edu reads %x\n", version_by_dma(edu, memory, 0xa0000000, 0x20000000));
  check(edu.number(DmaUnmap{Iova{0xa0000000}, 0x1000}) == 0, "unmapped");
  check(map_registers() == 0, "mapped anew");
  check(version_by_dma(edu, memory, 0xa0000000, 0x20000000) == version, "edu read them again");
  check(edu.number(Reset{}) == EINVAL, "edu cannot be reset");
}

/// Something unbinds or unplugs the device meanwhile.
void hold(Driven& device) {
  bool wanted = false;
  device.device->on_wanted_back([&wanted] { wanted = true; });
  std::printf("holding\n");
  std::fflush(stdout);
  device.run_until([&wanted] { return wanted; });
  device.close();
  check(true, "the kernel wanted it back");
}

} // namespace

int main(int argc, char** argv) {
  const std::string word = argc > 2 ? argv[2] : "auto";
  const auto interface = word == "type1"     ? kernel::Interface::type1
                         : word == "iommufd" ? kernel::Interface::iommufd
                                             : kernel::Interface::automatic;
  boost::asio::io_context io{1};
  for (const bool huge : {false, true}) { // opened twice: closing left nothing behind
    auto nvme = open(io, argc > 1 ? argv[1] : "", interface);
    if (!nvme) break;
    if (argc > 3 && argv[3] == std::string_view("hold")) {
      hold(*nvme);
      break;
    }
    drive_registers(*nvme);
    drive_nvme(*nvme, huge);
    auto edu = !huge && argc > 3 ? open(io, argv[3], interface) : std::nullopt;
    if (edu) {
      drive_peers(*nvme, *edu);
      edu->close();
    }
    nvme->close();
    check(testing::mappings_named("vfio-device") + testing::mappings_named("memfd:probe") == 0,
          "closed, nothing mapped");
  }
  std::printf("%u failures\n", failures);
  return failures == 0 ? 0 : 1;
}
