// The simulated NVMe controller, as a hostile client would attack it: registers, configuration space, doorbells,
// commands and their data structures in memory, windows that come and go, memory that changes while it is read,
// interrupts, resets; and a disk that fails. It must neither crash, hang, nor reach beyond its windows; between the
// attacks, what is read is what was written, and what was said to be on the medium is.
#include "nvme_guest.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::test;

namespace {

constexpr std::uint64_t unsealed_at = 0x40000000;

struct Run : Guest {
  using Guest::Guest;
  Scribbler scribbler;

  /// Mostly within the window, sometimes anywhere.
  static std::uint64_t address(Line& line) {
    const auto page = line.next();
    return page < 256 ? page % (Machine::pages + 1) * 4096 + line.below(4096) / 4 * 4 : page;
  }
  void command(Line& line);
  void map_unsealed(Line& line);
  void transfer(Line& line);
  void flush(Line& line);
};

/// A command in one of the first queues, where they would be if they had been made in order.
void Run::command(Line& line) {
  const auto queue = line.below<unsigned>(4);
  nvme::SubmissionEntry entry{};
  entry.opcode = line.below<std::uint8_t>(256);
  entry.cdw10 = line.below<std::uint32_t>(1ULL << 32);
  entry.cdw11 = line.below<std::uint32_t>(1ULL << 32);
  entry.cdw12 = line.below<std::uint32_t>(1ULL << 32);
  entry.nsid = line.below<std::uint32_t>(1ULL << 32) ^ 1;
  entry.prp1 = address(line);
  entry.prp2 = address(line);
  entry.flags = line.below<std::uint8_t>(256);
  entry.command_id = line.below<std::uint16_t>(16);
  const bool creates = entry.opcode == nvme::admin_opcode::create_sq || entry.opcode == nvme::admin_opcode::create_cq;
  if (queue == 0 && creates && entry.cdw10 < 4) create(entry, std::max(entry.cdw10, 1U));
  put(queue, entry);
  if (line.flag()) ring(2 * queue + 1, line.below<std::uint32_t>(16));
}

/// Memory that is cut off under the window.
void Run::map_unsealed(Line& line) {
  const Fd fd(::memfd_create("unsealed", MFD_CLOEXEC));
  require(::ftruncate(fd.get(), 8192) == 0);
  request(vfio::DmaMap{static_cast<Iova>(unsealed_at), 8192, Access::read_write, fd.duplicate().value()});
  require(::ftruncate(fd.get(), line.flag() ? 0 : 8192) == 0);
}

/// One whole command: opcode, first block, blocks, offset in the first page, force unit access, pattern; and its data.
void Run::transfer(Line& line) {
  if (scribbler.active()) return;
  fresh();
  constexpr std::uint8_t opcodes[] = {nvme::io_opcode::read, nvme::io_opcode::write, nvme::io_opcode::compare,
                                      nvme::io_opcode::write_zeroes};
  const auto opcode = line.of(opcodes);
  const auto size = disk().block_size();
  const auto first = line.below(disk().blocks()), count = 1 + line.below(disk().blocks() - first);
  const auto offset = line.below(1024) * 4, bytes = count * size;
  const bool stable = line.flag();
  const std::uint64_t list = 16 * 4096, data = 20 * 4096 + offset; // 64 KiB and a page at most
  nvme::SubmissionEntry entry{.opcode = opcode, .command_id = 7, .nsid = 1};
  entry.prp1 = data;
  const auto next = (data / 4096 + 1) * 4096;
  entry.prp2 = offset + bytes <= 8192 ? next : list;
  for (std::uint64_t i = 0; i < 17; ++i) {
    const auto page = next + i * 4096;
    std::memcpy(memory().data() + list + 8 * i, &page, sizeof page);
  }
  std::memset(memory().data() + 20 * 4096, line.below<int>(256), 18 * 4096);
  entry.cdw10 = static_cast<std::uint32_t>(first);
  entry.cdw12 = static_cast<std::uint32_t>(count - 1) | (stable ? 1U << 30 : 0);
  const auto had = disk().content();
  const std::vector<std::byte> sent(memory().begin() + 20 * 4096, memory().begin() + 38 * 4096);
  const bool reads = opcode == nvme::io_opcode::read || opcode == nvme::io_opcode::compare;
  const bool fails = reads ? disk().fail_read != 0 : disk().fail_write != 0;
  const bool unsettled = !reads && stable && disk().fail_flush != 0;

  const auto status = run(entry);
  const auto at = first * size;
  const auto now = disk().content();
  auto expected = had; // of the disk
  auto received = sent;
  if (opcode == nvme::io_opcode::write)
    std::copy_n(sent.begin() + static_cast<long>(offset), bytes, expected.begin() + static_cast<long>(at));
  if (opcode == nvme::io_opcode::write_zeroes)
    std::fill_n(expected.begin() + static_cast<long>(at), bytes, std::byte{});
  if (opcode == nvme::io_opcode::read)
    std::copy_n(had.begin() + static_cast<long>(at), bytes, received.begin() + static_cast<long>(offset));
  require(!fails || status != 0);
  if (fails) return;
  const bool equal = std::equal(had.begin() + static_cast<long>(at), had.begin() + static_cast<long>(at + bytes),
                                sent.begin() + static_cast<long>(offset));
  if (opcode == nvme::io_opcode::compare)
    require((status == 0) == equal);
  else
    require(status == 0 || unsettled || disk().lost);
  require(now == expected);
  require(std::equal(received.begin(), received.end(), memory().begin() + 20 * 4096));
  if (status == 0 && stable && !reads)
    require(std::equal(expected.begin() + static_cast<long>(at), expected.begin() + static_cast<long>(at + bytes),
                       disk().medium().begin() + static_cast<long>(at)));
}

void Run::flush(Line&) {
  if (scribbler.active()) return;
  fresh();
  const bool fails = disk().fail_flush != 0;
  const auto written = disk().content();
  const auto status = run({.opcode = nvme::io_opcode::flush, .command_id = 9, .nsid = 1});
  require(fails ? status != 0 : status == 0 || disk().lost);
  require(status != 0 || disk().medium() == written);
}

constexpr auto steps = std::to_array<Step<Run>>({
    {"command", [](Run& r, Line& l) { r.command(l); }},
    {"config", // offset, bytes, value
     [](Run& r, Line& l) {
       const auto offset = l.below(4100);
       std::vector<std::byte> data(l.below(9));
       for (auto& byte : data) byte = l.below<std::byte>(256);
       r.request(vfio::RegionWrite{vfio::config_region, offset, std::move(data)});
     }},
    {"enable", [](Run& r, Line&) { r.enable(); }},
    {"fail", // which, errno
     [](Run& r, Line& l) {
       std::atomic<int>* const which[] = {&r.disk().fail_read, &r.disk().fail_write, &r.disk().fail_flush};
       auto* fails = l.of(which);
       constexpr int errors[] = {EIO, ENOSPC, EROFS};
       *fails = l.of(errors);
     }},
    {"flush", [](Run& r, Line& l) { r.flush(l); }},
    {"fresh", [](Run& r, Line&) { if (!r.scribbler.active()) r.fresh(); }},
    {"irqs", // flags, index, start, count
     [](Run& r, Line& l) {
       vfio::SetIrqs set{l.below<std::uint32_t>(64), l.below<std::uint32_t>(6), l.below<std::uint32_t>(67), l.below<std::uint32_t>(5), {}, {}};
       if (l.flag()) set.bools.resize(set.count, 1);
       for (std::uint32_t i = 0; (set.flags & vfio::irq_data_eventfd) != 0 && i < set.count; ++i)
         set.eventfds.push_back(r.machine().event.duplicate().value());
       r.request(std::move(set));
     }},
    {"map", // page, pages, access, first page of the memory
     [](Run& r, Line& l) {
       const auto page = l.below(Machine::pages + 1), pages = l.below(Machine::pages + 1);
       const auto access = l.below<Access>(4);
       r.map(page * 4096, pages * 4096, access, l.below(Machine::pages - pages + 1) * 4096);
     }},
    {"map_unsealed", [](Run& r, Line& l) { r.map_unsealed(l); }},
    {"memory", // page, offset, value: a PRP, or anything
     [](Run& r, Line& l) {
       const auto at = l.below(Machine::pages) * 4096 + l.below(512) * 8, value = Run::address(l);
       std::memcpy(r.memory().data() + at, &value, sizeof value);
     }},
    {"poll", [](Run& r, Line& l) { for (auto count = 1 + l.below(8); count > 0; --count) r.function().poll(); }},
    {"read", // region, offset, bytes
     [](Run& r, Line& l) {
       const std::uint32_t regions[] = {0, vfio::config_region, 1, 8};
       const auto region = l.of(regions);
       const auto offset = l.next();
       r.request(vfio::RegionRead{region, offset, l.below<std::uint32_t>(65)});
     }},
    {"register", // offset, value
     [](Run& r, Line& l) {
       const auto offset = l.below(0x1400);
       r.set(offset, l.below<std::uint32_t>(1ULL << 32));
     }},
    {"reset", [](Run& r, Line&) { r.request(vfio::Reset{}); }},
    {"ring",
     [](Run& r, Line& l) {
       const auto index = l.below<unsigned>(1024);
       r.ring(index, l.below<std::uint32_t>(1ULL << 32));
     }},
    {"scribble", // for the rest of the input
     [](Run& r, Line& l) { r.scribbler.start(r.memory(), r.doorbells(), 1 + l.below<unsigned>(1 << 16)); }},
    {"transfer", [](Run& r, Line& l) { r.transfer(l); }},
    {"unmap",
     [](Run& r, Line& l) {
       const auto page = l.below(Machine::pages), pages = l.below(Machine::pages + 1);
       r.request(vfio::DmaUnmap{static_cast<Iova>(page * 4096), pages * 4096, l.flag()});
     }},
});

} // namespace

std::vector<std::string_view> test::script_steps() { return names_of(std::span<const Step<Run>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view script(reinterpret_cast<const char*>(data), size);
  Line first(script.substr(0, script.find('\n'))); // which block size
  Machine machine(first.flag() ? 4096 : 512);
  {
    Run run(machine);
    play(script, std::span<const Step<Run>>(steps), run);
  }
  require(machine.disk->file_bytes() == Disk::bytes);
  for (const std::byte byte : machine.memory.bytes().last(4096)) require(byte == std::byte{0}); // beyond the window
  return 0;
}
