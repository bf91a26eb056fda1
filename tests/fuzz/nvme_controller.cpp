// Fuzzes the simulated NVMe controller as a hostile client would attack it: registers, configuration space, doorbells,
// commands and their data structures in memory, windows that come and go, interrupts, resets. Must neither crash, hang,
// nor reach beyond its windows and its file.
#include "nvme/file_store.hpp"
#include "nvme/nvme_function.hpp"

#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace smartio;
namespace nvme = smartio::sim::nvme;

namespace {

constexpr std::uint64_t pages = 64, memory_bytes = pages * 4096, disk_bytes = 64 << 10;
constexpr std::uint64_t unsealed_at = 0x40000000;

[[noreturn]] void fail() { __builtin_trap(); }

struct Host {
  Fd memory_fd = make_memfd("host", memory_bytes + 4096).value(), disk = make_memfd("disk", disk_bytes).value();
  Mapping memory = Mapping::map(memory_fd.get(), 0, memory_bytes + 4096).value(); ///< the last page is not lent
  Fd event = make_eventfd().value();
  std::shared_ptr<nvme::Store> store =
      std::make_shared<nvme::FileStore>(nvme::FileStore::from_fd(disk.duplicate().value(), 512).value());
  std::shared_ptr<nvme::Flusher> flusher = std::make_shared<nvme::Flusher>(store);
  nvme::Identity identity = nvme::make_identity("/disk", disk_bytes / 512, 512);
};

class Run {
public:
  Run(Host& host, FuzzedDataProvider& input)
      : host_(host), input_(input),
        function_(nvme::NvmeFunction::create(host.store, host.flusher, host.identity).value()) {
    request(vfio::GetRegionInfo{0}, [this](vfio::Answer& answer) {
      auto& info = std::get<vfio::RegionInfo>(answer);
      doorbells_ = Mapping::map(info.fd.get(), info.fd_offset + info.areas.at(0).offset, 4096).value();
    });
    map(0, memory_bytes, Access::read_write, 0);
    if (input_.ConsumeBool()) return;
    enable();
    for (unsigned id = 1; id <= 3; ++id) make_queues(id);
  }

  void step() {
    switch (input_.ConsumeIntegralInRange(0, 13)) {
    case 0: return write_bar(pick({0x0c, 0x10, 0x14, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34}), 4);
    case 1: return write_bar(input_.ConsumeIntegral<std::uint16_t>(), input_.ConsumeIntegralInRange(0U, 16U));
    case 2: return request(vfio::RegionRead{region(), input_.ConsumeIntegral<std::uint16_t>(), small()});
    case 3:
      return request(vfio::RegionWrite{vfio::config_region, input_.ConsumeIntegralInRange<std::uint64_t>(0, 0xa0),
                                       bytes(input_.ConsumeIntegralInRange(0U, 8U))});
    case 4:
    case 5:
    case 6: return command();
    case 7: return ring(input_.ConsumeIntegralInRange(0U, 1023U), input_.ConsumeIntegral<std::uint32_t>());
    case 8: return scribble();
    case 9: return windows();
    case 10: return interrupts();
    case 11: return enable();
    case 12: return request(vfio::Reset{});
    default: function_->poll();
    }
  }

  void finish() {
    for (int i = 0; i < 10000; ++i) {
      if (!function_->poll()) return;
    }
    fail(); // never comes to rest
  }

private:
  void request(vfio::Request what, auto&& look) {
    int answers = 0;
    function_->submit(std::move(what), [&answers, &look](vfio::Reply reply) {
      ++answers;
      if (reply) look(*reply);
    });
    if (answers != 1) fail();
  }
  void request(vfio::Request what) {
    request(std::move(what), [](vfio::Answer&) {});
  }

  std::uint32_t pick(std::initializer_list<std::uint32_t> from) {
    return from.begin()[input_.ConsumeIntegralInRange<std::size_t>(0, from.size() - 1)];
  }
  std::uint32_t small() { return input_.ConsumeIntegralInRange(0U, 64U); }
  std::uint32_t region() { return input_.ConsumeBool() ? 0 : vfio::config_region; }
  std::vector<std::byte> bytes(std::size_t most) { return input_.ConsumeBytes<std::byte>(most); }
  /// Mostly within the window, sometimes anywhere.
  std::uint64_t address() {
    if (input_.ConsumeIntegralInRange(0, 15) == 0) return input_.ConsumeIntegral<std::uint64_t>();
    const std::uint64_t base = input_.ConsumeIntegralInRange(0, 7) == 0 ? unsealed_at : 0;
    return base + input_.ConsumeIntegralInRange<std::uint64_t>(0, pages) * 4096 +
           (input_.ConsumeBool() ? 0 : input_.ConsumeIntegralInRange<std::uint64_t>(0, 4095));
  }

  void write_bar(std::uint64_t offset, std::size_t size) { request(vfio::RegionWrite{0, offset, bytes(size)}); }

  void set(std::uint64_t offset, std::uint32_t value) {
    const auto data = std::as_bytes(std::span(&value, 1));
    request(vfio::RegionWrite{0, offset, {data.begin(), data.end()}});
  }

  void enable() {
    const std::byte command[] = {std::byte{0x06}, std::byte{0x04}};
    request(vfio::RegionWrite{vfio::config_region, 4, {std::begin(command), std::end(command)}});
    set(0x14, 0);
    set(0x24, 0x000f000f);
    set(0x28, 0);
    set(0x2c, 0);
    set(0x30, 0x1000);
    set(0x34, 0);
    set(0x14, 0x00460001);
    tails_ = {};
  }

  void ring(unsigned index, std::uint32_t value) {
    reinterpret_cast<volatile std::uint32_t*>(doorbells_.bytes().data())[index] = value;
  }

  void put(unsigned queue, const nvme::SubmissionEntry& entry) {
    auto& tail = tails_[queue];
    std::memcpy(host_.memory.bytes().data() + 8192 * queue + tail * 64, &entry, sizeof entry);
    tail = (tail + 1) % 16;
    ring(2 * queue, tail);
  }

  /// Makes `entry` create the queue of this id: submission queues at even pages, completion queues behind each.
  static void create(nvme::SubmissionEntry& entry, unsigned id) {
    const bool submission = entry.opcode == nvme::admin_opcode::create_sq;
    entry.cdw10 = 15U << 16 | id;
    entry.cdw11 = id << 16 | (submission ? 1U : 3U);
    entry.prp1 = (2 * id + (submission ? 0 : 1)) * 4096ULL;
  }

  void make_queues(unsigned id) {
    for (const std::uint8_t opcode : {nvme::admin_opcode::create_cq, nvme::admin_opcode::create_sq}) {
      nvme::SubmissionEntry entry{};
      entry.opcode = opcode;
      create(entry, id);
      put(0, entry);
      function_->poll();
    }
  }

  /// A command in one of the first queues, where they would be if they had been made in order.
  void command() {
    const unsigned queue = input_.ConsumeIntegralInRange(0U, 3U);
    nvme::SubmissionEntry entry{};
    entry.opcode = input_.ConsumeBool() ? input_.ConsumeIntegralInRange<std::uint8_t>(0, 0x0d)
                                        : input_.ConsumeIntegral<std::uint8_t>();
    entry.flags = input_.ConsumeIntegralInRange(0, 15) == 0 ? input_.ConsumeIntegral<std::uint8_t>() : 0;
    entry.command_id = input_.ConsumeIntegralInRange<std::uint16_t>(0, 15);
    entry.nsid = input_.ConsumeIntegralInRange(0, 7) == 0 ? input_.ConsumeIntegral<std::uint32_t>() : 1;
    entry.prp1 = address();
    entry.prp2 = address();
    if (queue == 0 && (entry.opcode == nvme::admin_opcode::create_sq || entry.opcode == nvme::admin_opcode::create_cq))
      create(entry, input_.ConsumeIntegralInRange(1U, 3U));
    if (input_.ConsumeBool()) {
      entry.cdw10 = input_.ConsumeIntegral<std::uint32_t>();
      entry.cdw11 = input_.ConsumeIntegral<std::uint32_t>();
      entry.cdw12 = input_.ConsumeIntegral<std::uint32_t>();
      entry.cdw13 = input_.ConsumeIntegral<std::uint32_t>();
    } else if (entry.cdw10 == 0) {
      entry.cdw10 = input_.ConsumeIntegralInRange(0U, 140U);
      entry.cdw11 = input_.ConsumeIntegralInRange(0, 3) == 0 ? small() : 0;
      entry.cdw12 = small();
    }
    put(queue, entry);
    if (input_.ConsumeBool()) ring(2 * queue + 1, input_.ConsumeIntegralInRange(0U, 15U));
  }

  void scribble() {
    const auto offset = input_.ConsumeIntegralInRange<std::size_t>(0, memory_bytes - 4096);
    if (input_.ConsumeBool()) { // a PRP list
      const std::uint64_t entry = address();
      std::memcpy(host_.memory.bytes().data() + offset / 8 * 8, &entry, sizeof entry);
      return;
    }
    const auto data = bytes(64);
    std::memcpy(host_.memory.bytes().data() + offset, data.data(), data.size());
  }

  void map(std::uint64_t iova, std::uint64_t size, Access access, std::uint64_t offset) {
    request(vfio::DmaMap{static_cast<Iova>(iova), size, access, host_.memory_fd.duplicate().value(), offset});
  }

  void windows() {
    const auto page = [this] { return input_.ConsumeIntegralInRange<std::uint64_t>(0, pages) * 4096; };
    switch (input_.ConsumeIntegralInRange(0, 4)) {
    case 0: return map(page(), page(), static_cast<Access>(input_.ConsumeIntegralInRange(0, 3)), 0);
    case 1: return map(0, memory_bytes, Access::read_write, 0);
    case 2: return request(vfio::DmaUnmap{static_cast<Iova>(page()), page()});
    case 3: return request(vfio::DmaUnmap{Iova{0}, 0, true});
    default: return map_unsealed();
    }
  }

  /// Memory that is cut off under the window.
  void map_unsealed() {
    Fd fd(::memfd_create("unsealed", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), 8192) != 0) fail();
    request(vfio::DmaMap{static_cast<Iova>(unsealed_at), 8192, Access::read_write, fd.duplicate().value()});
    if (::ftruncate(fd.get(), input_.ConsumeBool() ? 0 : 8192) != 0) fail();
  }

  void interrupts() {
    vfio::SetIrqs set{input_.ConsumeIntegralInRange(0U, 63U),
                      input_.ConsumeIntegralInRange(0U, 5U),
                      input_.ConsumeIntegralInRange(0U, 66U),
                      input_.ConsumeIntegralInRange(0U, 4U),
                      {},
                      {}};
    if (input_.ConsumeBool()) set.bools = input_.ConsumeBytes<std::uint8_t>(set.count);
    for (std::uint32_t i = 0; input_.ConsumeBool() && i < set.count; ++i)
      set.eventfds.push_back(host_.event.duplicate().value());
    request(std::move(set));
  }

  Host& host_;
  FuzzedDataProvider& input_;
  std::shared_ptr<nvme::NvmeFunction> function_;
  Mapping doorbells_;
  std::array<std::uint32_t, 4> tails_{};
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Host host;
  FuzzedDataProvider input(data, size);
  const auto guard = host.memory.bytes().last(4096);
  std::memset(host.memory.bytes().data(), 0, 32768);
  Run run(host, input);
  while (input.remaining_bytes() > 0) run.step();
  run.finish();
  drain_eventfd(host.event.get());
  struct stat status {};
  if (::fstat(host.disk.get(), &status) != 0 || status.st_size != disk_bytes) fail(); // the file keeps its size
  for (const std::byte byte : guard) {
    if (byte != std::byte{0}) fail(); // written beyond the window
  }
  return 0;
}
