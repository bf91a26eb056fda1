// The simulated bridge, as two hostile hosts would attack it, and each other: registers, configuration space,
// windows, DMA windows that come and go, messages answered late or wrongly, interrupts, resets, faults. It must neither
// crash nor reach beyond the memory that was lent, and answers every request once.
#include "fd.hpp"
#include "mapping.hpp"
#include "ntb/bridge.hpp"
#include "script.hpp"

#include <sys/mman.h>
#include <unistd.h>

using namespace smartio;
namespace ntb = smartio::sim::ntb;
using ntb::Side;
using test::Line;
using test::Step;

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
  Run(std::array<Host, 2>& hosts, Line& line)
      : hosts_(hosts), bridge_(ntb::chips[line.below(ntb::chip_count)], window_bytes) {
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

  ntb::Bridge& bridge() { return bridge_; }
  Host& host(Side side) { return hosts_[static_cast<std::size_t>(side)]; }
  static Side side(Line& line) { return line.flag() ? Side::a : Side::b; }

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
    map(side, memory_at, memory_bytes, Access::read_write);
  }

  void request(Side side, vfio::Request what) {
    ++asked_;
    host(side).device->submit(std::move(what), [this, answers = 0](const vfio::Reply&) mutable {
      if (++answers != 1) fail();
      ++answered_;
    });
  }
  void set(Side side, std::uint32_t region, std::uint64_t offset, std::size_t width, std::uint64_t value) {
    std::vector<std::byte> bytes(width);
    std::ranges::copy(std::as_bytes(std::span(&value, 1)).first(std::min(width, sizeof value)), bytes.begin());
    request(side, vfio::RegionWrite{region, offset, std::move(bytes)});
  }
  void map(Side side, std::uint64_t iova, std::uint64_t size, Access access, bool memory = true) {
    auto fd = memory ? host(side).memory_fd.duplicate().value() : Fd();
    request(side, vfio::DmaMap{static_cast<Iova>(iova), size, access, std::move(fd)});
  }
  void open(Side side, std::uint64_t to);
  void answer(Line& line);

private:
  std::array<Host, 2>& hosts_;
  ntb::Bridge bridge_;
  std::uint64_t asked_ = 0, answered_ = 0;
};

/// What a driver does to open its windows and bring up the link.
void Run::open(Side side, std::uint64_t to) {
  const std::uint64_t bar = 0x80000000;
  set(side, vfio::config_region, 0x04, 2, 0x6);
  for (unsigned i = 0; i < 2; ++i) {
    set(side, vfio::config_region, 0x18 + 8 * i, 8, bar);
    set(side, 0, 0x10 + 0x10 * i, 8, to);
    set(side, 0, 0x18 + 0x10 * i, 8, bar + window_bytes);
    set(side, 0, 0x4018 + 0x10 * i, 8, window_bytes);
  }
  set(side, 0, 0x4504, 2, 0x6);
  set(side, 0, 0x00, 4, 0);
  set(side, 0, 0xb050, 2, 0);
  set(side, 0, 0xb0d4, 4, 8);
}

/// Answers one of the messages: rightly, with an error, or with another number of bytes.
void Run::answer(Line& line) {
  auto& messages = host(side(line)).messages;
  if (messages.empty()) return;
  const auto place = line.below(messages.size());
  auto [bytes, done] = std::move(messages[place]);
  messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(place));
  const auto how = line.below(4);
  if (how == 1) return done(std::unexpected(EIO));
  if (how == 2) return done(vfio::Data{std::vector<std::byte>(line.below(33))});
  if (bytes == 0) return done(vfio::Done{});
  done(vfio::Data{std::vector<std::byte>(bytes)});
}

constexpr auto steps = std::to_array<Step<Run>>({
    {"answer", [](Run& r, Line& l) { r.answer(l); }},
    {"attach", [](Run& r, Line& l) { r.attach(Run::side(l)); }},
    {"config", // side, offset, width, value
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const auto offset = l.below(0x200);
       const auto width = l.below(17);
       r.set(side, vfio::config_region, offset, width, l.next());
     }},
    {"faults",
     [](Run& r, Line& l) {
       const auto bits = l.next();
       r.bridge().set_faults({(bits & 1) != 0, (bits & 2) != 0, l.below<ntb::Passing>(3), l.below<ntb::Passing>(3),
                              (bits & 4) != 0, (bits & 8) != 0});
     }},
    {"irqs", // side, first vector; or none
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       vfio::SetIrqs set{
           vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, l.below<std::uint32_t>(34), 1, {}, {}};
       set.eventfds.push_back(r.host(side).event.duplicate().value());
       if (l.flag()) set = {vfio::irq_data_none | vfio::irq_action_trigger, vfio::msix, 0, 0, {}, {}};
       r.request(side, std::move(set));
     }},
    {"map", // side, page, pages, access, without memory
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const auto page = l.below(9), pages = l.below(9);
       const auto access = l.below<Access>(4);
       r.map(side, memory_at + page * 4096, pages * 4096, access, !l.flag());
     }},
    {"open", // side, elsewhere
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       r.open(side, l.flag() ? 0x40000000 : memory_at);
     }},
    {"read", // side, region, offset, bytes
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const std::uint32_t regions[] = {0, 2, 4, vfio::config_region, 1};
       const auto region = l.of(regions);
       const auto offset = l.next();
       r.request(side, vfio::RegionRead{region, offset, l.below<std::uint32_t>(0x4001)});
     }},
    {"register", // side, offset, width, value
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const auto offset = l.below(65536);
       const auto width = 1U << l.below<unsigned>(4);
       r.set(side, 0, offset, width, l.next());
     }},
    {"reset", [](Run& r, Line& l) { r.request(Run::side(l), vfio::Reset{}); }},
    {"trained", [](Run& r, Line&) { r.bridge().trained(); }},
    {"unmap", // side, page, bytes, all
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const auto page = l.below(9);
       const auto bytes = l.next();
       r.request(side, vfio::DmaUnmap{static_cast<Iova>(memory_at + page * 4096), bytes, l.flag()});
     }},
    {"write", // side, which window, offset, bytes, value
     [](Run& r, Line& l) {
       const auto side = Run::side(l);
       const std::uint32_t region = l.flag() ? 4 : 2;
       const auto offset = l.next();
       const auto bytes = l.below(0x4001);
       r.set(side, region, offset, bytes, l.next());
     }},
});

} // namespace

std::vector<std::string_view> test::script_steps() { return test::names_of(std::span<const Step<Run>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::array<Host, 2> hosts;
  const std::string_view script(reinterpret_cast<const char*>(data), size);
  Line first(script.substr(0, script.find('\n'))); // which chip
  {
    Run run(hosts, first);
    test::play(script, std::span<const Step<Run>>(steps), run);
  }
  for (auto& host : hosts) {
    drain_eventfd(host.event.get());
    for (const std::byte byte : host.memory.bytes().last(4096))
      if (byte != std::byte{0}) fail(); // written beyond the window
  }
  return 0;
}
