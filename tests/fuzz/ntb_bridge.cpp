// Fuzzes the simulated bridge as two hostile hosts would attack it, and each other: registers, configuration space,
// windows, DMA windows that come and go, messages answered late or wrongly, interrupts, resets, faults. Must neither
// crash nor reach beyond the memory that was lent, and answers every request once.
#include "fd.hpp"
#include "mapping.hpp"
#include "ntb/bridge.hpp"

#include <cstring>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace smartio;
namespace ntb = smartio::sim::ntb;
using ntb::Side;

namespace {

constexpr std::uint64_t window_bytes = 0x4000, memory_bytes = 0x8000, memory_at = 0x100000;

[[noreturn]] void fail() { __builtin_trap(); }

struct Host {
  Fd memory_fd = make_memfd("host", memory_bytes + 4096).value(), event = make_eventfd().value();
  Mapping memory = Mapping::map(memory_fd.get(), 0, memory_bytes + 4096).value(); ///< the last page is not lent
  std::shared_ptr<vfio::Device> device;
  std::vector<std::pair<std::size_t, vfio::Completion>> messages; ///< bytes asked for, or 0
};

class Run {
public:
  Run(std::array<Host, 2>& hosts, FuzzedDataProvider& input)
      : hosts_(hosts), input_(input),
        bridge_(ntb::chips[input.ConsumeIntegralInRange<std::size_t>(0, 2)], window_bytes) {
    attach(Side::a);
    attach(Side::b);
  }

  ~Run() {
    bridge_.detach(Side::a);
    bridge_.detach(Side::b);
    if (asked_ != answered_) fail();
    for (auto& host : hosts_) {
      host.messages.clear();
      host.device.reset();
    }
  }

  void step() {
    if (input_.ConsumeIntegralInRange(0, 3) == 0) current_ = ntb::other(current_);
    switch (input_.ConsumeIntegralInRange(0, 15)) {
    case 0: return write(0, pick({0x00, 0x10, 0x18, 0x20, 0x28, 0x40, 0x48, 0x74, 0xb050, 0xb05a, 0xb0d4}));
    case 1: return write(0, pick({0x80, 0xbc, 0x100, 0x17c, 0x180, 0x8080, 0x4018, 0x4504, 0x4518, 0x2000, 0x2800}));
    case 2: return write(0, input_.ConsumeIntegral<std::uint16_t>());
    case 3: return write(vfio::config_region, input_.ConsumeIntegralInRange<std::uint64_t>(0, 0x1ff));
    case 4: return request(vfio::RegionRead{region(), offset(), input_.ConsumeIntegralInRange(0U, 64U)});
    case 5:
    case 6: return write(input_.ConsumeBool() ? 2 : 4, offset());
    case 7:
    case 8:
      return request(
          vfio::RegionRead{input_.ConsumeBool() ? 2U : 4U, offset(), input_.ConsumeIntegralInRange(1U, 0x4000U)});
    case 9: return windows();
    case 10: return interrupts();
    case 11: return answer();
    case 12: return open();
    case 13: return faults();
    case 14: return request(vfio::Reset{});
    default:
      if (input_.ConsumeIntegralInRange(0, 3) == 0) return attach(side());
      return bridge_.trained();
    }
  }

private:
  Side side() { return input_.ConsumeBool() ? Side::a : Side::b; }
  Host& host(Side side) { return hosts_[static_cast<std::size_t>(side)]; }
  std::uint32_t region() { return pick({0, 2, 4, vfio::config_region, 1}); }
  std::uint64_t offset() {
    return input_.ConsumeIntegralInRange(0, 15) == 0 ? input_.ConsumeIntegral<std::uint64_t>()
                                                     : input_.ConsumeIntegralInRange<std::uint64_t>(0, window_bytes);
  }
  std::uint32_t pick(std::initializer_list<std::uint32_t> from) {
    return from.begin()[input_.ConsumeIntegralInRange<std::size_t>(0, from.size() - 1)];
  }

  void attach(Side side) {
    auto& messages = host(side).messages;
    host(side).device =
        bridge_.attach(side, {[&messages](Iova, std::uint32_t bytes, vfio::Completion done) {
                                if (bytes == 0 || bytes > 65536) fail();
                                messages.emplace_back(bytes, std::move(done));
                              },
                              [&messages](Iova, const std::vector<std::byte>& data, vfio::Completion done) {
                                if (data.empty() || data.size() > 65536) fail();
                                messages.emplace_back(0, std::move(done));
                              }});
    current_ = side;
    map(memory_at, memory_bytes, Access::read_write);
  }

  void request(vfio::Request what) {
    ++asked_;
    host(current_).device->submit(std::move(what), [this, answers = 0](const vfio::Reply&) mutable {
      if (++answers != 1) fail();
      ++answered_;
    });
  }
  void write(std::uint32_t region, std::uint64_t offset) {
    request(vfio::RegionWrite{region, offset,
                              input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 16))});
  }
  void set(std::uint32_t region, std::uint64_t offset, std::size_t width, std::uint64_t value) {
    std::vector<std::byte> bytes(width);
    std::memcpy(bytes.data(), &value, width);
    ++asked_;
    host(current_).device->submit(vfio::RegionWrite{region, offset, std::move(bytes)},
                                  [this](const vfio::Reply&) { ++answered_; });
  }

  /// What a driver does to open its windows and bring up the link.
  void open() {
    current_ = side();
    const std::uint64_t bar = 0x80000000, to = input_.ConsumeBool() ? memory_at : 0x40000000;
    set(vfio::config_region, 0x04, 2, 0x6);
    for (unsigned i = 0; i < 2; ++i) {
      set(vfio::config_region, 0x18 + 8 * i, 8, bar);
      set(0, 0x10 + 0x10 * i, 8, to);
      set(0, 0x18 + 0x10 * i, 8, bar + window_bytes);
      set(0, 0x74 + 2 * i, 2, 40); // all of it
      set(0, 0x4018 + 0x10 * i, 8, window_bytes);
    }
    set(0, 0x4504, 2, 0x6);
    set(0, 0x00, 4, 0x154);
    set(0, 0xb050, 2, 0);
    set(0, 0xb0d4, 4, 8);
  }

  void map(std::uint64_t iova, std::uint64_t size, Access access) {
    auto fd = input_.ConsumeIntegralInRange(0, 7) == 0 ? Fd() : host(current_).memory_fd.duplicate().value();
    request(vfio::DmaMap{static_cast<Iova>(iova), size, access, std::move(fd)});
  }
  void windows() {
    const auto page = [this] { return memory_at + input_.ConsumeIntegralInRange<std::uint64_t>(0, 8) * 4096; };
    switch (input_.ConsumeIntegralInRange(0, 3)) {
    case 0: return map(page(), page() - memory_at, static_cast<Access>(input_.ConsumeIntegralInRange(0, 3)));
    case 1: return map(memory_at, memory_bytes, Access::read_write);
    case 2: return request(vfio::DmaUnmap{static_cast<Iova>(page()), input_.ConsumeIntegral<std::uint64_t>()});
    default: return request(vfio::DmaUnmap{Iova{0}, 0, true});
    }
  }

  void interrupts() {
    vfio::SetIrqs set{vfio::irq_data_eventfd | vfio::irq_action_trigger,
                      vfio::msix,
                      input_.ConsumeIntegralInRange(0U, 33U),
                      1,
                      {},
                      {}};
    set.eventfds.push_back(host(current_).event.duplicate().value());
    if (input_.ConsumeIntegralInRange(0, 3) == 0)
      set = {vfio::irq_data_none | vfio::irq_action_trigger, vfio::msix, 0, 0, {}, {}};
    request(std::move(set));
  }

  void answer() {
    auto& messages = host(side()).messages;
    if (messages.empty()) return;
    const auto place = input_.ConsumeIntegralInRange<std::size_t>(0, messages.size() - 1);
    auto [bytes, done] = std::move(messages[place]);
    messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(place));
    switch (input_.ConsumeIntegralInRange(0, 3)) {
    case 0: return done(std::unexpected(EIO));
    case 1: return done(vfio::Data{std::vector<std::byte>(input_.ConsumeIntegralInRange(0U, 32U))});
    default:
      if (bytes == 0) return done(vfio::Done{});
      return done(vfio::Data{std::vector<std::byte>(bytes)});
    }
  }

  void faults() {
    bridge_.set_faults(
        {input_.ConsumeBool(), input_.ConsumeBool(), static_cast<ntb::Passing>(input_.ConsumeIntegralInRange(0, 2)),
         static_cast<ntb::Passing>(input_.ConsumeIntegralInRange(0, 2)), input_.ConsumeBool(), input_.ConsumeBool()});
  }

  std::array<Host, 2>& hosts_;
  FuzzedDataProvider& input_;
  ntb::Bridge bridge_;
  Side current_ = Side::a;
  std::uint64_t asked_ = 0, answered_ = 0;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::array<Host, 2> hosts;
  FuzzedDataProvider input(data, size);
  {
    Run run(hosts, input);
    while (input.remaining_bytes() > 0) run.step();
  }
  for (auto& host : hosts) {
    drain_eventfd(host.event.get());
    for (const std::byte byte : host.memory.bytes().last(4096))
      if (byte != std::byte{0}) fail(); // written beyond the window
  }
  return 0;
}
