// A hostile lender's node beyond a bridge: what it answers to the requests of a borrower's client, what it says
// unasked. Each request completes once, with what belongs to it; registers lie in the bridge's window; and in the end
// the lender reaches none of the client's memory and no descriptor is left.
#include "remote_device.hpp"
#include "any_client.hpp"
#include "bridge_ends.hpp"
#include "script.hpp"
#include "small_device.hpp"
#include "user/codec.hpp"

using namespace smartio;
using namespace smartio::test;
using core::DeviceMessage;

namespace {

constexpr core::LoanId loan{DeviceId{0x40000}, 7};

class Ends {
public:
  Ends(boost::asio::io_context& io, Line& line) : bridge_(io, line.below(3), std::chrono::minutes(1)) {
    bridge_.find_each_other(1 + line.below<std::uint32_t>(64));
    if (!bridge_.peer) return;
    exposures_ = std::make_shared<Exposures>(bridge_.peer);
    device_ = std::make_shared<RemoteDevice>(io, loan, 1, core::DevicePath{}, exposures_, std::chrono::minutes(1),
                                             [this](const DeviceMessage& message) { sent(message); });
    device_->on_lost([this] { require(++lost_ == 1); });
  }
  ~Ends() {
    if (!device_) return;
    device_->close();
    bridge_.ours->late = false;
    bridge_.settle();
    require(asked_ == completed_ && closed_ == 1);
    device_.reset();
    bridge_.settle();
    require(bridge_.peer->used_bytes() == 0 || bridge_.ours->stuck);
  }

  // The client.
  void ask(vfio::Request request, std::uint64_t bytes = 0) {
    if (!device_ || asked_ - completed_ > 64) return;
    ++asked_;
    device_->submit(std::move(request), [this, bytes, once = 0](const vfio::Reply& reply) mutable {
      require(++once == 1);
      ++completed_;
      if (reply) check(*reply, bytes);
    });
    bridge_.run();
  }
  void close() {
    if (device_) device_->close();
  }
  Fd memory() const { return memory_.duplicate().value(); }
  Fd event() const { return event_.duplicate().value(); }
  BridgeEnds& bridge() { return bridge_; }

  // The lender.
  /// The right reply to the newest command, but for what is spoilt.
  void reply(std::uint64_t error, std::uint64_t older, bool window) {
    if (command_.payload.empty() && command_.code == 0) return;
    DeviceMessage message{.loan = loan, .session = 1, .kind = DeviceMessage::Kind::reply, .number = command_.number};
    message.number -= static_cast<std::uint32_t>(older);
    message.code = static_cast<std::uint16_t>(error);
    message.window = window;
    if (error == 0) message.payload = proper();
    receive(encode(message));
  }
  void receive(std::string bytes) {
    for (const auto& [at, value] : std::exchange(spoilt, {}))
      if (!bytes.empty()) bytes[at % bytes.size()] = static_cast<char>(value);
    auto message = core::decode_device_message(bytes);
    if (!message || !device_ || message->kind == DeviceMessage::Kind::command) return;
    if (message->kind == DeviceMessage::Kind::closed) return device_->lose();
    device_->received(std::move(*message));
    bridge_.run();
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spoilt; ///< bytes of the next message
  std::uint64_t region_at = 4096;                              ///< in the window of the lender

private:
  void check(const vfio::Answer& answer, std::uint64_t bytes) const {
    if (const auto* data = std::get_if<vfio::Data>(&answer)) require(data->bytes.size() == bytes);
    const auto* region = std::get_if<vfio::RegionInfo>(&answer);
    if (region == nullptr) return;
    require(region->areas.empty() == !region->fd);
    const auto& aperture = bridge_.peer->aperture();
    for (const auto& area : region->areas) {
      const auto at = region->fd_offset - aperture.fd_offset + area.offset;
      require(region->fd_offset >= aperture.fd_offset && at <= aperture.size && area.size <= aperture.size - at);
    }
  }

  void sent(const DeviceMessage& message) {
    require(core::decode_device_message(encode(message)) == message && message.loan == loan && message.session == 1);
    if (message.kind == DeviceMessage::Kind::closed) ++closed_;
    if (message.kind == DeviceMessage::Kind::command) command_ = message;
  }

  std::string proper() {
    using namespace vfio::user;
    const auto sent = std::as_bytes(std::span(command_.payload));
    const auto command = static_cast<Command>(command_.code);
    const auto access = load<AccessBody>(sent);
    if (command == Command::region_read && access && access->count < 1U << 20)
      return command_.payload.substr(0, sizeof(AccessBody)) + std::string(access->count, 'x');
    if (command == Command::region_write) return command_.payload.substr(0, sizeof(AccessBody));
    std::vector<Fd> fds(command == Command::dma_map && command_.window ? 1 : 0);
    auto request = decode_request(command, sent, std::move(fds));
    const auto* irq = request ? std::get_if<vfio::GetIrqInfo>(&*request) : nullptr;
    if (!request || (irq != nullptr && irq->index > 4)) return {};
    auto answer = far_.carry_out(std::move(*request));
    if (auto* info = answer ? std::get_if<vfio::RegionInfo>(&*answer) : nullptr) info->fd_offset = region_at;
    const auto payload = answer ? encode_answer(command, sent, *answer) : std::unexpected(EIO);
    if (!payload) return {};
    std::string bytes(reinterpret_cast<const char*>(payload->body.bytes().data()), payload->body.bytes().size());
    return bytes.append(reinterpret_cast<const char*>(payload->tail.data()), payload->tail.size());
  }

  BridgeEnds bridge_;
  Fd memory_ = make_memfd("memory", 1 << 16).value(), event_ = make_eventfd().value();
  std::shared_ptr<Exposures> exposures_;
  std::shared_ptr<RemoteDevice> device_;
  SmallDevice far_; ///< the lent device
  DeviceMessage command_;
  std::uint64_t asked_ = 0, completed_ = 0;
  unsigned lost_ = 0, closed_ = 0;
};

constexpr auto steps = std::to_array<Step<Ends>>({
    {"bridge_answers",
     [](Ends& e, Line& l) {
       auto& bridge = *e.bridge().ours;
       if (!bridge.waiting.empty()) bridge.answer(l.below<std::size_t>(bridge.waiting.size()));
       e.bridge().run();
     }},
    {"bridge_late", [](Ends& e, Line& l) { e.bridge().ours->late = l.flag(); }},
    {"close", [](Ends& e, Line&) { e.close(); }},
    {"fail", [](Ends& e, Line& l) { e.bridge().ours->fail = l.next(); }},
    {"info", [](Ends& e, Line&) { e.ask(vfio::GetInfo{}); }},
    {"irq_info", [](Ends& e, Line& l) { e.ask(vfio::GetIrqInfo{l.below<std::uint32_t>(6)}); }},
    {"irqs", // flags, index, start, count
     [](Ends& e, Line& l) {
       vfio::SetIrqs set{l.below<std::uint32_t>(64), l.below<std::uint32_t>(6), l.below<std::uint32_t>(66),
                         l.below<std::uint32_t>(40), {}, {}};
       if ((set.flags & vfio::irq_data_eventfd) != 0)
         while (set.eventfds.size() < set.count) set.eventfds.push_back(e.event());
       e.ask(std::move(set));
     }},
    {"link", [](Ends& e, Line& l) { e.bridge().want_link(l.flag()); }},
    {"map", // iova, size, access, offset, without memory
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       const auto access = static_cast<Access>(l.below(4));
       const auto offset = l.next();
       e.ask(vfio::DmaMap{iova, size, access, l.flag() ? Fd() : e.memory(), offset});
     }},
    {"message", // kind, number, code, window, text
     [](Ends& e, Line& l) {
       DeviceMessage message{.loan = loan, .session = 1, .kind = l.below<DeviceMessage::Kind>(4)};
       message.number = l.below<std::uint32_t>(1ULL << 32);
       message.code = l.below<std::uint16_t>(65536);
       message.window = l.flag();
       message.payload = l.rest();
       e.receive(encode(message));
     }},
    {"raw", [](Ends& e, Line& l) { e.receive(std::string(l.rest())); }},
    {"read",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       const auto count = l.below<std::uint32_t>(1 << 16);
       e.ask(vfio::RegionRead{region, offset, count}, count);
     }},
    {"region_at", [](Ends& e, Line& l) { e.region_at = l.next(); }},
    {"region_info", [](Ends& e, Line& l) { e.ask(vfio::GetRegionInfo{l.below<std::uint32_t>(10)}); }},
    {"reply", // errno, how much older, a window
     [](Ends& e, Line& l) {
       const auto error = l.next(), older = l.next();
       e.reply(error, older, l.flag());
     }},
    {"reset", [](Ends& e, Line&) { e.ask(vfio::Reset{}); }},
    {"ring", [](Ends& e, Line& l) { e.bridge().ring(l.below<std::uint32_t>(1ULL << 32)); }},
    {"spoil", // place, value: of the next message
     [](Ends& e, Line& l) {
       const auto at = l.next();
       e.spoilt.emplace_back(at, l.below(256));
     }},
    {"unmap",
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       e.ask(vfio::DmaUnmap{iova, size, l.flag()});
     }},
    {"write",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       e.ask(vfio::RegionWrite{region, offset, std::vector<std::byte>(1 + l.below(8192))});
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
    Line first(script.substr(0, script.find('\n'))); // which chip, how many pages of window
    Ends ends(io, first);
    play(script, std::span<const Step<Ends>>(steps), ends);
  }
  io.poll();
  require(!std::exchange(warm, true) || descriptors_now() == before);
  return 0;
}
