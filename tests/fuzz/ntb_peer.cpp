// A hostile host at a bridge's other end: its scratchpads, what it writes into our control page, its doorbells, a link
// that comes and goes, registers that read as anything. Our node reports no peer that did not say who it is, and gives
// out no room twice.
#include "any_client.hpp"
#include "bridge_ends.hpp"
#include "script.hpp"

#include <set>

using namespace smartio;
using namespace smartio::test;

namespace {

/// Of our node, six of which are its patience. Longer than a look at all registers takes it, instrumented on a slow
/// machine: else there is always something to do, and no poll() of its loop ends.
constexpr std::chrono::milliseconds tick(20);

struct Ends : BridgeEnds {
  explicit Ends(boost::asio::io_context& io, Line& line)
      : BridgeEnds(io, line.below(3), line.flag() ? 6 * tick : std::chrono::milliseconds(60000)) {
    changed = [this] { check(); };
  }

  void check() const {
    if (!peer) return;
    const auto& state = peer->state();
    require(state.up == state.reason.empty());
    if (state.up) require(state.node != NodeId{} && (any_greeting || greeted.contains(state.node)));
    require(state.aperture_bytes <= peer->aperture().size);
    std::uint64_t used = 0, end = 4096; // behind the control page
    for (const auto& [offset, bytes] : rooms) {
      require(offset >= end && offset % 4096 == 0);
      end = offset + bytes;
      used += (bytes + 4095) / 4096 * 4096;
    }
    require(end <= peer->window_bytes() && used == peer->used_bytes());
  }

  std::set<NodeId> greeted;  ///< who was told of in a hello
  bool any_greeting = false; ///< or in registers that were written one by one
  std::map<std::uint64_t, std::uint64_t> rooms;
  std::vector<unsigned> claimed;
  std::uint64_t waits = 0, flushes = 0, flushed = 0;
};

constexpr auto steps = std::to_array<Step<Ends>>({
    {"aperture", // offset, width, value: through the bridge
     [](Ends& e, Line& l) {
       const auto offset = l.next();
       const auto width = l.below<unsigned>(9);
       e.write(Peer::aperture_region, offset, width, l.next());
     }},
    {"claim",
     [](Ends& e, Line&) {
       e.call([&e](Peer& peer) {
         if (const auto bit = peer.claim_doorbell([] {})) e.claimed.push_back(*bit);
       });
     }},
    {"fail", [](Ends& e, Line& l) { e.ours->fail = l.next(); }},
    {"faults",
     [](Ends& e, Line& l) {
       const auto bits = l.next();
       e.set_faults({(bits & 1) != 0, (bits & 2) != 0, l.below<sim::ntb::Passing>(3), l.below<sim::ntb::Passing>(3),
                     (bits & 4) != 0, (bits & 8) != 0});
     }},
    {"flush",
     [](Ends& e, Line&) {
       e.call([&e](Peer& peer) {
         ++e.flushes;
         peer.flush([&e](const Result<void>&) { ++e.flushed; });
       });
     }},
    {"hello", // node, epoch, pages, spoilt
     [](Ends& e, Line& l) {
       const auto node = l.below<std::uint32_t>(65536), epoch = l.below<std::uint32_t>(1ULL << 32);
       e.greeted.insert(NodeId(static_cast<std::uint16_t>(node)));
       const auto pages = l.below<std::uint32_t>(1ULL << 32);
       e.hello(node, epoch, pages, l.below<std::uint32_t>(1ULL << 32));
     }},
    {"link", [](Ends& e, Line& l) { e.want_link(l.flag()); }},
    {"odd",
     [](Ends& e, Line& l) {
       e.ours->odd = l.next();
       e.ours->ones = l.flag();
     }},
    {"register", // offset, width, value: of the other host's BAR 0
     [](Ends& e, Line& l) {
       const auto offset = l.below(65536);
       const auto width = 1U << l.below<unsigned>(4);
       e.write(0, offset, width, l.next());
       e.any_greeting = true; // it may be a scratchpad
     }},
    {"release",
     [](Ends& e, Line& l) {
       const auto offset = e.rooms.empty() ? l.next() : l.of(e.rooms).first;
       e.rooms.erase(offset);
       e.call([offset](Peer& peer) { peer.release(offset); });
     }},
    {"reserve",
     [](Ends& e, Line& l) {
       const auto bytes = l.next();
       e.call([&e, bytes](Peer& peer) {
         if (const auto offset = peer.reserve(bytes)) require(e.rooms.emplace(*offset, bytes).second);
       });
     }},
    {"ring", [](Ends& e, Line& l) { e.ring(l.below<std::uint32_t>(1ULL << 32)); }},
    {"ring_theirs",
     [](Ends& e, Line& l) {
       e.call([bit = l.below<unsigned>(32)](Peer& peer) { peer.ring(bit, [](const Result<void>&) {}); });
     }},
    {"run", [](Ends& e, Line&) { e.run(); }},
    {"sign", // epoch, wrong
     [](Ends& e, Line& l) {
       const auto epoch = l.below<std::uint32_t>(1ULL << 32);
       e.sign(epoch, l.below<std::uint32_t>(1ULL << 32));
     }},
    {"unclaim",
     [](Ends& e, Line& l) {
       if (e.claimed.empty()) return;
       const auto place = e.claimed.begin() + l.below<long>(e.claimed.size());
       e.call([bit = *place](Peer& peer) { peer.release_doorbell(bit); });
       e.claimed.erase(place);
     }},
    {"wait", // for a tick
     [](Ends& e, Line&) {
       if (++e.waits > 3) return;
       e.wait(tick);
     }},
});

} // namespace

std::vector<std::string_view> test::script_steps() { return names_of(std::span<const Step<Ends>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static boost::asio::io_context io;
  static bool warm = false; // the loop has its own descriptors
  const auto before = descriptors_now();
  const std::string_view script(reinterpret_cast<const char*>(data), size);
  {
    Line first(script.substr(0, script.find('\n'))); // which chip, how much patience
    Ends ends(io, first);
    play(script, std::span<const Step<Ends>>(steps), ends);
    ends.run();
    ends.check();
    require(ends.flushes == ends.flushed);
  }
  io.poll();
  require(!std::exchange(warm, true) || descriptors_now() == before);
  return 0;
}
