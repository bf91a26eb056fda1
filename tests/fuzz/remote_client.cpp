// A hostile borrower's node beyond a bridge: what it says in messages about a lent device, whose commands the lender
// carries out. Each command has one answer at most, the device is told of nothing beyond the peer's window, and when
// the session is over, nothing of the device is reached any more and no descriptor is left.
#include "remote_client.hpp"
#include "any_client.hpp"
#include "bridge_ends.hpp"
#include "client_device.hpp"
#include "script.hpp"
#include "small_device.hpp"
#include "user/codec.hpp"

#include <set>

using namespace smartio;
using namespace smartio::test;
using core::DeviceMessage;

namespace {

constexpr core::LoanId loan{DeviceId{0x80000}, 7};

/// The lent device, to which the client's windows come.
struct LentDevice final : SmallDevice {
  explicit LentDevice(std::uint64_t reach) : reached(reach) {}
  void submit(vfio::Request request, vfio::Completion done) override {
    if (const auto* map = std::get_if<vfio::DmaMap>(&request); map != nullptr && map->fd)
      require(map->size != 0 && map->offset <= reached && map->size <= reached - map->offset);
    if (const auto* set = std::get_if<vfio::SetIrqs>(&request)) require(set->eventfds.size() <= set->count);
    SmallDevice::submit(std::move(request), std::move(done));
  }
  std::uint64_t reached; ///< of the bridge's BAR
};

class Ends {
public:
  Ends(boost::asio::io_context& io, Line& line) : bridge_(io, line.below(3), std::chrono::minutes(1)) {
    bridge_.find_each_other(1 + line.below<std::uint32_t>(64));
    if (!bridge_.peer) return;
    exposures_ = std::make_shared<Exposures>(bridge_.peer);
    const auto& aperture = bridge_.peer->aperture();
    device = std::make_shared<LentDevice>(aperture.fd_offset + bridge_.peer->state().aperture_bytes);
    Description description;
    description.can_reset = true;
    description.protected_pages = {{0, 0, 4096}};
    description.config = device->config;
    lent_ = std::make_shared<ClientDevice>(device, description, line.flag() ? std::optional(0U) : std::nullopt,
                                           line.flag(), peers_);
    client_ = std::make_shared<RemoteClient>(io, loan, 1, core::DevicePath{}, exposures_, peers_,
                                             [this](const DeviceMessage& message) { sent(message); });
  }
  ~Ends() {
    if (!client_) return;
    client_->close();
    bridge_.ours->late = false;
    while (!device->waiting.empty()) device->complete();
    client_.reset();
    bridge_.settle();
    require((bridge_.peer->used_bytes() == 0 || bridge_.ours->stuck) && closed_ == 1);
  }

  void admit() {
    if (client_ && !std::exchange(admitted_, true)) client_->admitted(lent_);
    bridge_.run();
  }
  void close() {
    if (client_) client_->close();
  }
  /// As our own borrower's node says it, unless something is spoilt.
  void command(const vfio::Request& request, bool window, std::vector<std::uint8_t> doorbells = {}) {
    const auto payload = vfio::user::encode_request(request);
    DeviceMessage message{.loan = loan,
                          .session = 1,
                          .number = ++number_,
                          .code = static_cast<std::uint16_t>(vfio::user::command_of(request)),
                          .window = window,
                          .doorbells = std::move(doorbells),
                          .payload = {}};
    for (const auto part : {payload.body.bytes(), payload.tail})
      message.payload.append(reinterpret_cast<const char*>(part.data()), part.size());
    receive(encode(message));
  }
  void receive(std::string bytes) {
    for (const auto& [at, value] : std::exchange(spoilt, {}))
      if (!bytes.empty()) bytes[at % bytes.size()] = static_cast<char>(value);
    auto message = core::decode_device_message(bytes);
    if (!message || !client_) return;
    require(encode(*message).size() == bytes.size());
    if (message->kind == DeviceMessage::Kind::command) asked_.insert(message->number);
    client_->received(std::move(*message));
    bridge_.run();
  }
  void signal(std::size_t place) {
    for (const auto& set : device->irqs)
      if (!set.eventfds.empty()) signal_eventfd(set.eventfds[place % set.eventfds.size()].get());
    bridge_.run();
  }
  BridgeEnds& bridge() { return bridge_; }
  std::shared_ptr<LentDevice> device = std::make_shared<LentDevice>(0);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spoilt; ///< bytes of the next message

private:
  void sent(const DeviceMessage& message) {
    require(core::decode_device_message(encode(message)) == message && message.loan == loan && message.session == 1);
    require(encode(message).size() < 1U << 20); // fits a frame
    if (message.kind == DeviceMessage::Kind::closed) ++closed_;
    if (message.kind != DeviceMessage::Kind::reply) return;
    const auto command = asked_.find(message.number);
    require(closed_ == 0 && command != asked_.end()); // one answer for each
    asked_.erase(command);
  }

  BridgeEnds bridge_;
  std::shared_ptr<RegisterWindows> peers_ = std::make_shared<RegisterWindows>();
  std::shared_ptr<Exposures> exposures_;
  std::shared_ptr<ClientDevice> lent_;
  std::shared_ptr<RemoteClient> client_;
  bool admitted_ = false;
  unsigned closed_ = 0;
  std::uint32_t number_ = 0;
  std::multiset<std::uint32_t> asked_; ///< commands without an answer
};

constexpr auto steps = std::to_array<Step<Ends>>({
    {"admit", [](Ends& e, Line&) { e.admit(); }},
    {"bridge_answers",
     [](Ends& e, Line& l) {
       auto& bridge = *e.bridge().ours;
       if (!bridge.waiting.empty()) bridge.answer(l.below<std::size_t>(bridge.waiting.size()));
       e.bridge().run();
     }},
    {"bridge_late", [](Ends& e, Line& l) { e.bridge().ours->late = l.flag(); }},
    {"close", [](Ends& e, Line&) { e.close(); }},
    {"complete",
     [](Ends& e, Line& l) {
       if (!e.device->waiting.empty()) e.device->complete(l.below<std::size_t>(e.device->waiting.size()));
       e.bridge().run();
     }},
    {"fail", [](Ends& e, Line& l) { e.bridge().ours->fail = l.next(); }},
    {"info", [](Ends& e, Line&) { e.command(vfio::GetInfo{}, false); }},
    {"irq_info", [](Ends& e, Line& l) { e.command(vfio::GetIrqInfo{l.below<std::uint32_t>(6)}, false); }},
    {"irqs", // flags, index, start, count, doorbell...
     [](Ends& e, Line& l) {
       vfio::SetIrqs set{l.below<std::uint32_t>(64), l.below<std::uint32_t>(6), l.below<std::uint32_t>(66),
                               l.below<std::uint32_t>(66), {}, {}};
       std::vector<std::uint8_t> doorbells(l.below(3) == 0 ? set.count : 0, l.below<std::uint8_t>(256));
       e.command(std::move(set), false, std::move(doorbells));
     }},
    {"later", [](Ends& e, Line& l) { e.device->manner = l.flag() ? SmallDevice::Manner::later : SmallDevice::Manner::at_once; }},
    {"link", [](Ends& e, Line& l) { e.bridge().want_link(l.flag()); }},
    {"map", // iova, size, access, offset, without a window
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       const auto access = static_cast<Access>(l.below(4));
       const auto offset = l.next();
       e.command(vfio::DmaMap{iova, size, access, {}, offset}, !l.flag());
     }},
    {"message", // kind, code, window, doorbells, text
     [](Ends& e, Line& l) {
       DeviceMessage message{.loan = loan, .session = 1, .kind = l.below<DeviceMessage::Kind>(4), .number = 1000};
       message.code = l.below<std::uint16_t>(65536);
       message.window = l.flag();
       message.doorbells.resize(l.below(256), 3);
       message.payload = l.rest();
       e.receive(encode(message));
     }},
    {"raw", [](Ends& e, Line& l) { e.receive(std::string(l.rest())); }},
    {"read",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       e.command(vfio::RegionRead{region, offset, l.below<std::uint32_t>(1 << 20)}, false);
     }},
    {"region_info", [](Ends& e, Line& l) { e.command(vfio::GetRegionInfo{l.below<std::uint32_t>(10)}, l.flag()); }},
    {"reset", [](Ends& e, Line&) { e.command(vfio::Reset{}, false); }},
    {"signal", [](Ends& e, Line& l) { e.signal(l.below<std::size_t>(64)); }},
    {"spoil", // place, value: of the next message
     [](Ends& e, Line& l) {
       const auto at = l.next();
       e.spoilt.emplace_back(at, l.below(256));
     }},
    {"unmap",
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       e.command(vfio::DmaUnmap{iova, size, l.flag()}, false);
     }},
    {"write",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       e.command(vfio::RegionWrite{region, offset, std::vector<std::byte>(l.below(8192))}, false);
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
    Line first(script.substr(0, script.find('\n'))); // which chip, how many pages of window, shared, filtered
    Ends ends(io, first);
    play(script, std::span<const Step<Ends>>(steps), ends);
  }
  io.poll();
  require(!std::exchange(warm, true) || descriptors_now() == before);
  return 0;
}
