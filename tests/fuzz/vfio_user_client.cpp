// A hostile server of a device: what it answers to a client's requests, what it says unasked, and when it goes.
// Whatever it does, each request completes once, with what belongs to it or an error, and no descriptor is left.
#include "any_client.hpp"
#include "mapping.hpp"
#include "script.hpp"
#include "small_device.hpp"
#include "user/client.hpp"
#include "user/codec.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

using Bytes = std::vector<std::byte>;

void require(bool holds) {
  if (!holds) std::abort();
}

/// Both ends, in one loop.
class Ends {
public:
  explicit Ends(boost::asio::io_context& io) : io_(io) {
    int ends[2];
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    server_ = Fd(ends[0]);
    Client::start(Socket(io, boost::asio::local::stream_protocol(), ends[1]), std::chrono::seconds(60),
                  [this](Result<std::shared_ptr<Client>> opened) {
                    require(!opened_);
                    opened_ = true;
                    if (opened) client_ = std::move(*opened);
                  });
    listen();
  }
  ~Ends() {
    if (client_ && asked_ % 2 == 0) client_->close();
    hang_up();
    client_.reset();
    io_.poll();
    require(opened_ && asked_ == completed_);
  }

  // The client.
  void ask(Request request, std::uint64_t bytes = 0) {
    if (!client_) return;
    ++asked_;
    client_->submit(std::move(request), [this, bytes, once = 0](const Reply& reply) mutable {
      require(++once == 1);
      ++completed_;
      if (reply) check(*reply, bytes);
    });
    listen();
  }
  void post(const RegionWrite& write) {
    if (client_) client_->post(write);
    listen();
  }
  void close() {
    if (client_) client_->close();
  }
  void serve_dma() {
    if (!client_) return;
    client_->serve_dma(
        [](Iova, std::uint32_t count) -> std::expected<Bytes, int> {
          require(count > 0 && count <= max_transfer);
          if (count % 3 == 0) return std::unexpected(EFAULT);
          return Bytes(count % 5 == 0 ? count - 1 : count);
        },
        [](Iova, std::span<const std::byte> data) {
          require(!data.empty() && data.size() <= max_transfer);
          return 0;
        });
  }
  SetIrqs irqs(Line& line) const {
    SetIrqs set{line.below<std::uint32_t>(64),
                line.below<std::uint32_t>(6),
                line.below<std::uint32_t>(66),
                line.below<std::uint32_t>(40),
                {},
                {}};
    for (std::uint32_t i = 0; line.next() % 4 == 0 && i < set.count; ++i)
      set.eventfds.push_back(event_.duplicate().value());
    return set;
  }
  Fd memory() const { return memory_.duplicate().value(); }

  // The server.
  void version(std::string_view capabilities) {
    Bytes payload = encode_version(own_version);
    if (!capabilities.empty()) {
      payload.resize(4);
      for (const char c : capabilities) payload.push_back(static_cast<std::byte>(c));
      payload.push_back({});
    }
    say({0, Command::version, 0, type_reply, 0}, std::move(payload));
  }
  /// The right reply to one of the commands, but for what the line spoils.
  void reply(Line& line) {
    if (heard_.empty()) return;
    const auto place = heard_.begin() + line.below<long>(heard_.size());
    const auto [header, sent] = std::move(*place);
    heard_.erase(place);
    Header answer{header.id, header.command, 0, type_reply, 0};
    if (const auto error = line.next(); error != 0) {
      answer.flags |= flag_error;
      answer.error = static_cast<std::uint32_t>(error);
    }
    Bytes payload = answer.error == 0 ? proper(header.command, sent) : Bytes{};
    for (auto count = line.below(4); count > 0 && !payload.empty(); --count) {
      const auto at = line.below(payload.size());
      payload[at] = line.below<std::byte>(256);
    }
    if (line.flag()) payload.resize(line.below(payload.size() + 64));
    say(answer, std::move(payload));
  }
  void say(Header header, Bytes payload) {
    header.size = static_cast<std::uint32_t>(sizeof header + payload.size());
    Bytes message(bytes_of(header).begin(), bytes_of(header).end());
    message.insert(message.end(), payload.begin(), payload.end());
    send(message);
  }
  void send(std::span<const std::byte> bytes);
  void hang_up() {
    server_.reset();
    io_.poll();
  }
  unsigned descriptors = 0; ///< that go with the next message

private:
  struct Heard {
    Header header;
    Bytes payload;
  };

  static void check(const Answer& answer, std::uint64_t bytes) {
    if (const auto* data = std::get_if<Data>(&answer)) require(data->bytes.size() == bytes);
    if (const auto* region = std::get_if<RegionInfo>(&answer)) {
      require(region->areas.empty() == !region->fd);
      for (const auto& area : region->areas)
        require(area.size != 0 && in_range(area.offset, area.size, region->size) &&
                in_range(region->fd_offset, area.offset + area.size, INT64_MAX));
    }
  }

  Bytes proper(Command command, const Bytes& sent) {
    const auto access = load<AccessBody>(sent);
    if (command == Command::region_read && access) {
      Bytes echo(sent.begin(), sent.begin() + sizeof(AccessBody));
      echo.resize(echo.size() + access->count);
      return echo;
    }
    if (command == Command::region_write && access) return {sent.begin(), sent.begin() + sizeof(AccessBody)};
    std::vector<Fd> fds(command == Command::dma_map ? 1 : 0);
    auto request = decode_request(command, sent, std::move(fds));
    if (const auto* get = request ? std::get_if<GetIrqInfo>(&*request) : nullptr; get != nullptr && get->index > 4)
      return {};
    auto answer = request ? device_.carry_out(std::move(*request)) : vfio::Reply(Done{});
    if (!answer) return {};
    const auto payload = encode_answer(command, sent, *answer);
    if (!payload) return {};
    if (!payload->fds.empty() && descriptors == 0) descriptors = 1;
    Bytes bytes(payload->body.bytes().begin(), payload->body.bytes().end());
    bytes.insert(bytes.end(), payload->tail.begin(), payload->tail.end());
    return bytes;
  }

  /// What the client has said.
  void listen() {
    io_.restart();
    io_.poll();
    std::byte buffer[65536];
    for (ssize_t got = 0; server_ && (got = ::recv(server_.get(), buffer, sizeof buffer, MSG_DONTWAIT)) > 0; io_.poll())
      said_.insert(said_.end(), buffer, buffer + got);
    for (auto header = load<Header>(said_); header && said_.size() >= header->size; header = load<Header>(said_)) {
      require(header->size >= sizeof *header && header->size <= max_message);
      const auto end = said_.begin() + header->size;
      if ((header->flags & (type_mask | flag_no_reply)) == type_command && header->command != Command::version)
        heard_.push_back({*header, {said_.begin() + sizeof *header, end}});
      said_.erase(said_.begin(), end);
    }
  }

  boost::asio::io_context& io_;
  Fd server_, event_ = make_eventfd().value(), memory_ = make_memfd("memory", 1 << 20).value();
  std::shared_ptr<Client> client_;
  SmallDevice device_;
  bool opened_ = false;
  std::uint64_t asked_ = 0, completed_ = 0;
  Bytes said_;               ///< that is not a whole message yet
  std::vector<Heard> heard_; ///< commands without a reply
};

void Ends::send(std::span<const std::byte> bytes) {
  if (!server_ || bytes.empty()) return;
  alignas(cmsghdr) std::byte control[CMSG_SPACE(20 * sizeof(int))]{};
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr out{};
  out.msg_iov = &part;
  out.msg_iovlen = 1;
  if (const std::size_t count = std::exchange(descriptors, 0) % 21; count != 0) {
    out.msg_control = control;
    out.msg_controllen = CMSG_SPACE(count * sizeof(int));
    auto* head = CMSG_FIRSTHDR(&out);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(count * sizeof(int));
    const int fd = memory_.get();
    for (std::size_t i = 0; i < count; ++i) std::memcpy(CMSG_DATA(head) + i * sizeof fd, &fd, sizeof fd);
  }
  while (!bytes.empty()) {
    const auto sent = ::sendmsg(server_.get(), &out, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
    part = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    out.msg_controllen = 0;
    listen();
  }
}

constexpr auto steps = std::to_array<Step<Ends>>({
    {"close", [](Ends& e, Line&) { e.close(); }},
    {"descriptors", [](Ends& e, Line& l) { e.descriptors = l.below<unsigned>(21); }},
    {"dma", // command, iova, count, bytes of data
     [](Ends& e, Line& l) {
       const Header header{l.below<std::uint16_t>(65536), l.flag() ? Command::dma_read : Command::dma_write, 0, 0, 0};
       const DmaAccessBody body{l.next(), l.next()};
       Bytes payload(bytes_of(body).begin(), bytes_of(body).end());
       payload.resize(payload.size() + l.below(8192));
       e.say(header, std::move(payload));
     }},
    {"hang_up", [](Ends& e, Line&) { e.hang_up(); }},
    {"info", [](Ends& e, Line&) { e.ask(GetInfo{}); }},
    {"irq_info", [](Ends& e, Line& l) { e.ask(GetIrqInfo{l.below<std::uint32_t>(6)}); }},
    {"irqs", [](Ends& e, Line& l) { e.ask(e.irqs(l)); }},
    {"map", // iova, size, access, with memory, offset
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       const auto access = static_cast<Access>(l.below(4));
       e.ask(DmaMap{iova, size, access, l.flag() ? e.memory() : Fd(), l.next()});
     }},
    {"post",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       e.post(RegionWrite{region, offset, Bytes(l.below(65))});
     }},
    {"raw",
     [](Ends& e, Line& l) { e.send(std::as_bytes(std::span(l.rest()))); }},
    {"read",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       const auto count = l.below<std::uint32_t>(1 << 17);
       e.ask(RegionRead{region, offset, count}, count);
     }},
    {"region_info", [](Ends& e, Line& l) { e.ask(GetRegionInfo{l.below<std::uint32_t>(10)}); }},
    {"reply", [](Ends& e, Line& l) { e.reply(l); }},
    {"reset", [](Ends& e, Line&) { e.ask(Reset{}); }},
    {"say", // id, command, flags, error, bytes
     [](Ends& e, Line& l) {
       const auto id = l.below<std::uint16_t>(65536);
       const auto command = l.below<Command>(20);
       const auto flags = l.below<std::uint32_t>(128), error = l.below<std::uint32_t>(1ULL << 32);
       e.say({id, command, 0, flags, error}, Bytes(l.below(4096)));
     }},
    {"serve_dma", [](Ends& e, Line&) { e.serve_dma(); }},
    {"unmap",
     [](Ends& e, Line& l) {
       const Iova iova{l.next()};
       const auto size = l.next();
       e.ask(DmaUnmap{iova, size, l.flag()});
     }},
    {"version", [](Ends& e, Line& l) { e.version(l.rest()); }},
    {"write",
     [](Ends& e, Line& l) {
       const auto region = l.below<std::uint32_t>(10);
       const auto offset = l.next();
       e.ask(RegionWrite{region, offset, Bytes(l.below(1 << 17))});
     }},
});

} // namespace

std::vector<std::string_view> test::script_steps() { return names_of(std::span<const Step<Ends>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static boost::asio::io_context io;
  static bool warm = false; // the loop has its own descriptors
  const auto before = descriptors_now();
  {
    Ends ends(io);
    play({reinterpret_cast<const char*>(data), size}, std::span<const Step<Ends>>(steps), ends);
  }
  io.poll();
  require(!std::exchange(warm, true) || descriptors_now() == before);
  return 0;
}
