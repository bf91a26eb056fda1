// The server against clients that send what they should not.
#include "catch.hpp"
#include "small_device.hpp"
#include "user/server.hpp"
#include "vfio_user_raw.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

const Bytes hello = message(Command::version, version("{}"));

/// A served device and the other end of its client's socket.
struct Served {
  boost::asio::io_context& io;
  std::shared_ptr<SmallDevice> device = std::make_shared<SmallDevice>();
  Counters counters;
  int closed = 0;
  std::shared_ptr<Connection> connection;
  Raw raw;

  explicit Served(boost::asio::io_context& loop, bool greeted = true) : Served(loop, Raw::pair(loop), greeted) {}

  bool ended() {
    const bool gone = raw.closed();
    settle(io);
    return gone && closed == 1;
  }
  /// Whether the connection still works.
  bool alive() {
    const auto reply = raw.ask(message(Command::get_info, test::raw(InfoBody{16, 0, 0, 0}), 77));
    return reply && !reply->failed() && reply->header.id == 77 && reply->payload.size() == 16 && closed == 0;
  }
  /// The errno of the answer, which must be a header alone.
  std::uint32_t refusal(const Bytes& command, std::vector<int> fds = {}) {
    const auto reply = raw.ask(command, std::move(fds));
    REQUIRE(reply);
    CHECK(reply->payload.empty());
    CHECK(reply->header.flags == (type_reply | flag_error));
    return reply->header.error;
  }

private:
  Served(boost::asio::io_context& loop, std::pair<Raw, Socket> ends, bool greeted)
      : io(loop), raw(std::move(ends.first)) {
    connection = Connection::start(std::move(ends.second), device, counters, [this] { ++closed; });
    if (greeted) REQUIRE(raw.ask(hello));
  }
};

Bytes header_only(std::uint32_t size, std::uint32_t flags = 0, Command command = Command::get_info) {
  return test::raw(Header{1, command, size, flags, 0});
}

} // namespace

TEST_CASE("VERSION is answered with the smaller minor version and our capabilities") {
  boost::asio::io_context io;
  const auto minor = GENERATE(0, 1, 2, 65535);
  Served served(io, false);
  const auto reply = served.raw.ask(message(
      Command::version,
      version(R"({"capabilities":{"twin_socket":{"supported":true}}})", 0, static_cast<std::uint16_t>(minor)), 9));
  REQUIRE(reply);
  CHECK((reply->header.id == 9 && reply->header.flags == type_reply && reply->fds.empty()));
  CHECK(load<VersionNumber>(reply->payload)->minor == std::min(minor, 1));
  CHECK(reply->payload.size() - 4 <= 194);
  CHECK(reply->payload.back() == std::byte{0});
  CHECK(served.alive());
}

TEST_CASE("a greeting that is none is refused with EINVAL, and the connection closed") {
  boost::asio::io_context io;
  Served served(io, false);
  const auto eventfd = make_eventfd().value();
  std::vector<int> fds;
  Bytes command;
  SECTION("a command before VERSION") { command = message(Command::get_info, Bytes(16)); }
  SECTION("an unknown command") { command = message(static_cast<Command>(4711)); }
  SECTION("another major version") { command = message(Command::version, version("{}", 1)); }
  SECTION("nothing in it") { command = message(Command::version); }
  SECTION("text cut off") { command = message(Command::version, version(R"({"capabilities":{)")); }
  SECTION("wrong types") { command = message(Command::version, version(R"({"capabilities":{"max_msg_fds":"1"}})")); }
  SECTION("with descriptors") {
    command = hello;
    fds = {eventfd.get()};
  }
  CHECK(served.refusal(command, fds) == EINVAL);
  CHECK(served.ended());
  CHECK(served.device->requests == 0);
  CHECK((served.counters.malformed == 1 && served.counters.errors == 1 && served.counters.messages == 1));
}

TEST_CASE("frames that cannot be end the connection without a word") {
  boost::asio::io_context io;
  const bool greeted = GENERATE(true, false);
  Served served(io, greeted);
  SECTION("size 0") { served.raw.send(header_only(0)); }
  SECTION("size 15") { served.raw.send(header_only(15)); }
  SECTION("size above the limit") { served.raw.send(header_only(max_message + 1)); }
  SECTION("size 2^32-1") { served.raw.send(header_only(UINT32_MAX)); }
  SECTION("a reply nobody asked for") { served.raw.send(header_only(16, type_reply)); }
  SECTION("a reply to VERSION") { served.raw.send(header_only(16, type_reply, Command::version)); }
  SECTION("neither command nor reply") { served.raw.send(header_only(16, 2)); }
  SECTION("a command with the error flag") { served.raw.send(header_only(16, flag_error)); }
  CHECK(served.ended());
  CHECK(served.counters.malformed == 1);
  CHECK(served.device->requests == (greeted ? 15U : 0U));
}

TEST_CASE("refused commands leave the connection as it was") {
  boost::asio::io_context io;
  Served served(io);
  const auto asked = served.device->requests;
  CHECK(served.refusal(hello) == EINVAL); // a second one
  CHECK(served.refusal(message(Command::device_feature, Bytes(8))) == EINVAL);
  CHECK(served.refusal(message(Command::region_write_multi, Bytes(32))) == EOPNOTSUPP);
  CHECK(served.refusal(message(Command::dirty_pages, Bytes(16))) == EOPNOTSUPP);
  CHECK(served.refusal(message(static_cast<Command>(999))) == EOPNOTSUPP);
  CHECK(served.refusal(message(Command::dma_read, Bytes(16))) == EINVAL);
  CHECK(served.refusal(message(Command::get_info, Bytes(15))) == EINVAL);
  CHECK(served.refusal(message(Command::get_region_info, test::raw(RegionInfoBody{32, 0, 9, 0, 0, 0}))) == EINVAL);
  CHECK(served.refusal(message(Command::get_irq_info, test::raw(IrqInfoBody{16, 0, 5, 0}))) == EINVAL);
  CHECK(served.refusal(message(Command::region_read, region_read(8190, 0, 4))) == EINVAL);
  CHECK(served.refusal(message(Command::region_read, region_read(UINT64_MAX - 1, 0, 4))) == EINVAL);
  CHECK(served.refusal(message(Command::region_read, region_read(0, UINT32_MAX, 4))) == EINVAL);
  CHECK(served.refusal(message(Command::region_read, region_read(0, 1, 4))) == EACCES);
  CHECK(served.refusal(message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x21, msix, 65, 1}))) == EINVAL);
  CHECK(served.device->requests == asked);
  CHECK(served.counters.errors == 14);
  CHECK(served.alive());
}

TEST_CASE("odd but legal accesses are the device's business") {
  boost::asio::io_context io;
  Served served(io);
  for (const std::uint32_t count : {1U, 3U, 5U, 7U}) {
    const auto reply = served.raw.ask(message(Command::region_read, region_read(1, config_region, count)));
    REQUIRE(reply);
    CHECK(reply->payload.size() == 16 + count);
  }
}

TEST_CASE("the argsz dance gives the descriptor once the whole info fits") {
  boost::asio::io_context io;
  Served served(io);
  const auto brief = served.raw.ask(message(Command::get_region_info, test::raw(RegionInfoBody{32, 0, 0, 0, 0, 0})));
  const auto argsz = load<RegionInfoBody>(brief->payload)->argsz;
  CHECK((brief->payload.size() == 32 && argsz == 64 && brief->fds.empty()));
  CHECK((load<RegionInfoBody>(brief->payload)->flags & region_flag_caps) == 0);
  const auto whole = served.raw.ask(message(Command::get_region_info, test::raw(RegionInfoBody{argsz, 0, 0, 0, 0, 0})));
  CHECK((whole->payload.size() == 64 && whole->fds.size() == 1));
}

TEST_CASE("every command comes with descriptors: all are closed") {
  boost::asio::io_context io;
  Served served(io);
  const auto eventfd = make_eventfd().value();
  const auto before = open_descriptors();
  for (std::uint16_t number = 2; number < 20; ++number) {
    CAPTURE(number);
    const auto reply = served.raw.ask(message(static_cast<Command>(number), Bytes(32)), {eventfd.get(), eventfd.get()});
    REQUIRE(reply);
    settle(io);
    CHECK(open_descriptors() == before);
  }
  CHECK(served.raw.ask(message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, 0, 4096})), {eventfd.get()})
            ->payload.size() == 24); // SPDK sends one
  CHECK(open_descriptors() == before);
  CHECK(served.alive());
}

TEST_CASE("more descriptors than a message may have end the connection, and are closed") {
  boost::asio::io_context io;
  const Served first(io); // from now on the loop has its own descriptors
  const auto before = open_descriptors();
  {
    Served served(io);
    const auto eventfd = make_eventfd().value();
    SECTION("in one piece") {
      served.raw.send(message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 64})),
                      std::vector(64, eventfd.get()));
    }
    SECTION("a few with each byte") {
      const auto command = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 64}));
      for (std::size_t i = 0; i < 8; ++i) served.raw.send({&command[i], 1}, std::vector(8, eventfd.get()));
    }
    settle(io);
    CHECK(served.closed == 1); // whatever comes of the message
    CHECK(served.ended());
    CHECK(served.counters.malformed == 1);
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("descriptors belong to the message they came with") {
  boost::asio::io_context io;
  Served served(io);
  const auto eventfd = make_eventfd().value();
  const auto none = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 1}));
  const auto some = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 1, 2}));
  // All are in the socket before the server reads.
  REQUIRE(::send(served.raw.fd(), none.data(), none.size(), 0) > 0);
  served.raw.send(some, {eventfd.get(), eventfd.get()});
  served.raw.send(none);
  for (int i = 0; i < 3; ++i) CHECK_FALSE(served.raw.receive()->failed());
  REQUIRE(served.device->irqs.size() == 3);
  CHECK(served.device->irqs[0].eventfds.empty());
  CHECK(served.device->irqs[1].eventfds.size() == 2);
  CHECK(served.device->irqs[2].eventfds.empty());
}

TEST_CASE("descriptors that came with the first byte belong to a message that comes byte by byte") {
  boost::asio::io_context io;
  Served served(io);
  const auto eventfd = make_eventfd().value();
  const auto command = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 1}));
  for (std::size_t i = 0; i < command.size(); ++i) {
    served.raw.send({&command[i], 1}, i == 0 ? std::vector{eventfd.get()} : std::vector<int>());
    settle(io);
  }
  CHECK_FALSE(served.raw.receive()->failed());
  REQUIRE(served.device->irqs.size() == 1);
  CHECK(served.device->irqs[0].eventfds.size() == 1);
}

TEST_CASE("interrupts that are no eventfds, and windows that are no files, are refused") {
  boost::asio::io_context io;
  Served served(io);
  int pipe[2];
  REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
  const Fd in(pipe[0]), out(pipe[1]);
  const auto file = make_memfd("window", 8192).value();
  const auto irq = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 1}));
  const auto map = [](std::uint32_t flags, std::uint64_t offset, std::uint64_t size) {
    return message(Command::dma_map, test::raw(DmaMapBody{32, flags, offset, 0, size}));
  };
  CHECK(served.refusal(irq, {out.get()}) == EINVAL);
  CHECK(served.refusal(irq, {file.get()}) == EINVAL);
  CHECK(served.refusal(map(3, 0, 4096), {in.get()}) == EINVAL);
  CHECK(served.refusal(map(3, 0, 12288), {file.get()}) == EINVAL);
  CHECK(served.refusal(map(3, 8192, 4096), {file.get()}) == EINVAL);
  CHECK(served.refusal(map(3, 0, 4096), {file.get(), file.get()}) == EINVAL);
  CHECK(served.device->irqs.empty());
  CHECK(served.device->windows.empty());
  CHECK_FALSE(served.raw.ask(map(3, 0, 8192), {file.get()})->failed());
  const auto eventfd = make_eventfd().value();
  const auto two = message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 2}));
  CHECK_FALSE(served.raw.ask(two, {eventfd.get(), eventfd.get()})->failed()); // the same twice is fine
}

TEST_CASE("No_reply is silent in success and failure, and keeps the order") {
  boost::asio::io_context io;
  Served served(io);
  const auto write = [](std::uint64_t offset) {
    return message(Command::region_write, join(test::raw(AccessBody{offset, 0, 4}), Bytes(4, std::byte{1})), 5,
                   flag_no_reply);
  };
  served.raw.send(write(0));
  served.raw.send(write(UINT64_MAX));
  served.raw.send(message(static_cast<Command>(200), {}, 5, flag_no_reply));
  served.raw.send(message(Command::region_read, Bytes(3), 5, flag_no_reply));
  CHECK(served.raw.silent());
  CHECK(served.device->bar0[0] == std::byte{1});
  CHECK(served.counters.errors == 3);
  CHECK(served.alive());
}

TEST_CASE("the device knows of a write whether its client waits for it") {
  boost::asio::io_context io;
  Served served(io);
  served.device->manner = SmallDevice::Manner::later;
  for (const std::uint32_t flags : {0U, flag_no_reply, 0U})
    served.raw.send(message(Command::region_write, join(test::raw(AccessBody{0, 0, 4}), Bytes(4)), 5, flags));
  run_until(io, [&served] { return served.device->waiting.size() == 3; });
  std::vector<bool> posted;
  for (const auto& [request, done] : served.device->waiting) posted.push_back(std::get<RegionWrite>(request).posted);
  CHECK(posted == std::vector{false, true, false});
}

TEST_CASE("a storm of posted writes before a read") {
  boost::asio::io_context io;
  Served served(io);
  Bytes storm;
  const auto write =
      message(Command::region_write, join(test::raw(AccessBody{0, 0, 4}), Bytes(4, std::byte{9})), 5, flag_no_reply);
  for (int i = 0; i < 1000; ++i) storm.insert(storm.end(), write.begin(), write.end());
  for (int i = 0; i < 100; ++i) REQUIRE(served.raw.send(storm));
  const auto reply = served.raw.ask(message(Command::region_read, region_read(0, 0, 4)));
  CHECK(served.device->kinds[5] == 100000);
  CHECK(reply->payload.back() == std::byte{9});
}

TEST_CASE("a flood of resets is carried out and answered") {
  boost::asio::io_context io;
  Served served(io);
  Bytes flood;
  const auto reset = message(Command::reset);
  for (int i = 0; i < 1000; ++i) flood.insert(flood.end(), reset.begin(), reset.end());
  REQUIRE(served.raw.send(flood));
  for (int i = 0; i < 1000; ++i) REQUIRE(served.raw.receive());
  CHECK(served.device->kinds[8] == 1000);
}

TEST_CASE("a client that goes at any byte of any message is forgotten, its descriptors closed") {
  boost::asio::io_context io;
  const Served first(io); // from now on the loop has its own descriptors
  const auto eventfd = make_eventfd().value();
  const std::vector<Bytes> commands{
      hello,
      message(Command::dma_map, test::raw(DmaMapBody{32, 3, 0, 0, 4096})),
      message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 1})),
      message(Command::get_region_info, test::raw(RegionInfoBody{64, 0, 0, 0, 0, 0})),
      message(Command::region_read, region_read(0, 0, 4096)),
      message(Command::region_write, join(test::raw(AccessBody{0, 0, 16}), Bytes(16))),
  };
  const auto before = open_descriptors();
  for (const auto& command : commands)
    for (std::size_t size = 1; size <= command.size(); ++size) {
      Served served(io, command != hello);
      served.raw.send({command.data(), size}, {eventfd.get()});
      served.raw.close();
      run_until(io, [&served] { return served.closed == 1; });
      REQUIRE(served.counters.malformed == (command == hello && size == command.size() ? 1U : 0U));
    }
  settle(io);
  CHECK(open_descriptors() == before);
}

TEST_CASE("replies of clients that fit no question end the connection") {
  boost::asio::io_context io;
  Served served(io);
  int error = 0;
  served.connection->dma_read(Iova{4096}, 8, [&error](Reply reply) { error = reply ? -1 : reply.error(); });
  const auto asked = served.raw.receive();
  REQUIRE((asked && asked->header.command == Command::dma_read && asked->payload.size() == 16));
  const auto id = asked->header.id;
  const auto reply = [id](const Bytes& payload, std::uint16_t other = 0, Command command = Command::dma_read) {
    return message(command, payload, static_cast<std::uint16_t>(id + other), type_reply);
  };
  const auto body = [](std::uint64_t iova, std::uint64_t count) { return test::raw(DmaAccessBody{iova, count}); };
  SECTION("wrong id") { served.raw.send(reply(join(body(4096, 8), Bytes(8)), 1)); }
  SECTION("wrong command") { served.raw.send(reply(join(body(4096, 8), Bytes(8)), 0, Command::dma_write)); }
  SECTION("wrong command, as it would be answered") { served.raw.send(reply(body(4096, 8), 0, Command::dma_write)); }
  SECTION("wrong count") { served.raw.send(reply(join(body(4096, 4), Bytes(4)))); }
  SECTION("wrong address") { served.raw.send(reply(join(body(0, 8), Bytes(8)))); }
  SECTION("less data") { served.raw.send(reply(join(body(4096, 8), Bytes(7)))); }
  SECTION("more data") { served.raw.send(reply(join(body(4096, 8), Bytes(9)))); }
  SECTION("no payload") { served.raw.send(reply({})); }
  CHECK(served.ended());
  CHECK(error == ENODEV);
  CHECK(served.counters.malformed == 1);
}

TEST_CASE("a client's memory is asked for in no more bytes at a time than it takes") {
  std::vector<int> errors;
  boost::asio::io_context io;
  Served served(io, false);
  REQUIRE(served.raw.ask(message(Command::version, version(R"({"capabilities":{"max_data_xfer_size":4096}})"))));
  const auto keep = [&errors](const Reply& reply) { errors.push_back(reply ? 0 : reply.error()); };
  served.connection->dma_read(Iova{0}, 4097, keep);
  served.connection->dma_write(Iova{0}, Bytes(4097), keep);
  CHECK(errors == std::vector{EINVAL, EINVAL});
  served.connection->dma_read(Iova{0}, 4096, keep);
  const auto asked = served.raw.receive();
  REQUIRE(asked);
  CHECK(load<DmaAccessBody>(asked->payload)->count == 4096);
}

TEST_CASE("a client may answer its commands and ours in any mixture") {
  boost::asio::io_context io;
  Served served(io);
  std::vector<int> order;
  served.connection->dma_read(Iova{0}, 4, [&order](Reply reply) { order.push_back(reply ? 1 : -1); });
  served.connection->dma_write(Iova{0}, Bytes(4), [&order](Reply reply) { order.push_back(reply ? 2 : -2); });
  const auto read = served.raw.receive();
  const auto write = served.raw.receive();
  CHECK(write->payload.size() == 16 + 4);
  CHECK(served.alive());
  served.raw.send(message(Command::dma_write, {}, write->header.id, type_reply)); // QEMU 10 repeats nothing
  CHECK(served.alive());
  served.raw.send(message(Command::dma_read, {}, read->header.id, type_reply | flag_error, 19));
  CHECK(served.alive());
  CHECK(order == std::vector{2, -1});
}

TEST_CASE("memory that a client does not answer for in time is given up, its late reply ignored, its silence bounded") {
  std::vector<int> errors;
  boost::asio::io_context io;
  Served served(io), slow(io), mute(io); // each waits the same seconds
  const auto ask = [&errors](Served& of, int times) {
    for (int i = 0; i < times; ++i)
      of.connection->dma_read(Iova{0}, 4, [&errors](Reply reply) { errors.push_back(reply.error()); });
  };
  ask(served, 1);
  const auto asked = served.raw.receive();
  ask(slow, 64);
  ask(mute, 65);
  run_until(io, [&] { return errors.size() == 1 + 64 + 65; });
  CHECK(std::ranges::count(errors, ETIMEDOUT) == 1 + 64 + 65);
  settle(io);
  CHECK(mute.closed == 1);
  CHECK(slow.closed == 0);
  served.raw.send(
      message(Command::dma_read, join(test::raw(DmaAccessBody{0, 4}), Bytes(4)), asked->header.id, type_reply));
  CHECK(served.alive());

  // Those that were answered late make room for as many.
  const auto late = slow.raw.receive();
  slow.raw.send(
      message(Command::dma_read, join(test::raw(DmaAccessBody{0, 4}), Bytes(4)), late->header.id, type_reply));
  for (int i = 1; i < 64; ++i) slow.raw.receive();
  CHECK(slow.alive());
  ask(slow, 1);
  run_until(io, [&] { return errors.size() == 1 + 64 + 65 + 1; });
  settle(io);
  CHECK(slow.closed == 0);
}

TEST_CASE("as many messages may be under way to a client as can be told apart, and no more") {
  std::vector<int> errors;
  boost::asio::io_context io;
  Served served(io);
  for (int i = 0; i < 32768; ++i)
    served.connection->dma_read(Iova{0}, 4, [&errors](Reply reply) { errors.push_back(reply ? 0 : reply.error()); });
  CHECK(errors.empty());
  served.connection->dma_read(Iova{0}, 4, [&errors](Reply reply) { errors.push_back(reply ? 0 : reply.error()); });
  CHECK(errors == std::vector{ENOBUFS});
}

TEST_CASE("no command is carried out before VERSION, and none but one VERSION after another") {
  boost::asio::io_context io;
  const auto file = make_memfd("window", 4096).value();
  const auto eventfd = make_eventfd().value();
  struct Row {
    const char* what;
    Bytes command;
    std::vector<int> fds;
  };
  const Row rows[]{
      {"map", message(Command::dma_map, test::raw(DmaMapBody{32, 3, 0, 0, 4096})), {file.get()}},
      {"unmap", message(Command::dma_unmap, test::raw(DmaUnmapBody{24, 0, 0, 4096})), {}},
      {"read", message(Command::region_read, region_read(0, 0, 4)), {}},
      {"posted write", message(Command::region_write, join(region_read(0, 0, 4), Bytes(4)), 1, flag_no_reply), {}},
      {"interrupt", message(Command::set_irqs, test::raw(SetIrqsBody{20, 0x24, msix, 0, 1})), {eventfd.get()}},
      {"reset", message(Command::reset), {}},
  };
  for (const auto& row : rows) {
    INFO(row.what);
    Served served(io, false);
    const auto before = open_descriptors();
    served.raw.send(join(row.command, hello), row.fds);
    run_until(io, [&served] { return served.closed == 1; });
    CHECK(served.device->requests == 0);
    CHECK(open_descriptors() <= before);
  }
  Served served(io);
  CHECK(served.refusal(hello) == EINVAL);
  CHECK(served.alive());
}

namespace {

/// Answers nothing until it is told to.
struct Slow final : SmallDevice {
  std::deque<std::pair<Request, Completion>> asked;
  void submit(Request request, Completion done) override { asked.emplace_back(std::move(request), std::move(done)); }
  void answer_all() {
    for (; !asked.empty(); asked.pop_front()) {
      auto [request, done] = std::move(asked.front());
      done(carry_out(std::move(request)));
    }
  }
};

/// A slow device, and a client that has sent VERSION.
struct Greeting {
  boost::asio::io_context io;
  std::shared_ptr<Slow> device = std::make_shared<Slow>();
  std::pair<Raw, Socket> ends = Raw::pair(io);
  Raw& raw = ends.first;
  Counters counters;
  std::shared_ptr<Connection> connection = Connection::start(std::move(ends.second), device, counters, [] {});
  explicit Greeting(const Bytes& sent) { REQUIRE(raw.send(sent)); }
  ~Greeting() {
    connection->close();
    settle(io);
  }
};

} // namespace

TEST_CASE("what a client sends before its VERSION is answered waits until then") {
  Greeting greeting(
      join(hello, message(Command::reset, {}, 2), message(Command::get_info, test::raw(InfoBody{16}), 3)));
  CHECK(greeting.raw.silent());
  CHECK(greeting.device->asked.size() == 1); // what it is
  greeting.device->answer_all();
  CHECK(greeting.raw.receive()->header.command == Command::version);
  settle(greeting.io);
  REQUIRE(greeting.device->asked.size() == 1);
  CHECK(std::holds_alternative<Reset>(greeting.device->asked.front().first));
  greeting.device->answer_all();
  for (const int id : {2, 3}) CHECK(greeting.raw.receive()->header.id == id);
}

TEST_CASE("registers that are withdrawn reach no client, whether it has been greeted or is just being greeted") {
  Greeting greeting(hello);
  settle(greeting.io);
  const bool greeted = GENERATE(false, true);
  if (greeted) greeting.device->answer_all();
  greeting.connection->withdraw_registers();
  greeting.device->answer_all();
  REQUIRE(greeting.raw.receive());
  const auto info = greeting.raw.ask(message(Command::get_region_info, test::raw(RegionInfoBody{4096, 0, 0, 0, 0, 0})));
  REQUIRE((info && !info->failed()));
  CHECK(info->fds.empty());
  CHECK((load<RegionInfoBody>(info->payload)->flags & region_flag_mmap) == 0);
}

TEST_CASE("a connection that has ended holds its device no longer") {
  boost::asio::io_context io;
  Served served(io);
  const bool by_client = GENERATE(false, true);
  if (by_client)
    served.raw.close();
  else
    served.connection->close();
  run_until(io, [&] { return served.closed == 1 || !by_client; });
  settle(io);
  CHECK(served.device.use_count() == 1);
}

TEST_CASE("a client that does not read is not served without bound, and gone in the end") {
  boost::asio::io_context io;
  Served served(io);
  served.device->bar0.resize(8192);
  Bytes commands;
  const auto read = message(Command::region_read, region_read(0, 0, 8192));
  for (int i = 0; i < 1000; ++i) commands.insert(commands.end(), read.begin(), read.end());
  REQUIRE(served.raw.send(commands));
  settle(io);
  const auto carried_out = served.device->kinds[4];
  CHECK(carried_out < 1000);
  run_until(io, [&served] { return served.closed == 1; });
  CHECK(served.device->kinds[4] == carried_out);
}

TEST_CASE("closing a connection from within the device is survived") {
  struct Closer : SmallDevice {
    std::weak_ptr<Connection> connection;
    void submit(Request request, Completion done) override {
      if (std::holds_alternative<Reset>(request)) connection.lock()->close();
      SmallDevice::submit(std::move(request), std::move(done));
    }
  };
  boost::asio::io_context io;
  auto [client, socket] = Raw::pair(io);
  Counters counters;
  auto device = std::make_shared<Closer>();
  const auto connection = Connection::start(std::move(socket), device, counters, [] { FAIL("closed by itself"); });
  device->connection = connection;
  device.reset();
  client.send(join(hello, message(Command::reset), message(Command::reset)));
  REQUIRE(client.receive());
  CHECK(client.closed());
  settle(io);
}
