// The simulated bridge behind its sockets, with a client at each end.
#include "catch.hpp"
#include "fd.hpp"
#include "mapping.hpp"
#include "ntb_service.hpp"
#include "user/client.hpp"
#include "vfio_user_raw.hpp"

#include <bit>
#include <boost/asio/write.hpp>
#include <cstring>
#include <map>
#include <unistd.h>

using namespace smartio;
using namespace smartio::test;
using sim::ntb::Side;
using vfio::user::Client;
namespace offset = sim::ntb::register_offset;

namespace {

constexpr std::uint64_t window_bytes = 0x10000, bar2_at = 0x80000000, memory_at = 0x40000000, registers_at = 0x700000;
constexpr std::chrono::milliseconds patience{60000};

/// A place for sockets, gone when all tests are done.
std::string directory() {
  static const struct Made {
    std::string name = "/tmp/smartio-ntb-XXXXXX";
    Made() { REQUIRE(::mkdtemp(name.data()) != nullptr); }
    ~Made() { ::rmdir(name.c_str()); }
  } made;
  return made.name;
}

/// A client at one end: memory with a descriptor at memory_at, registers that only messages reach at registers_at.
struct Host {
  boost::asio::io_context& io;
  std::string path;
  Fd memory_fd = make_memfd("host", window_bytes).value();
  Mapping memory = Mapping::map(memory_fd.get(), 0, window_bytes).value();
  std::map<std::uint64_t, std::uint64_t> registers;
  std::shared_ptr<Client> client;

  Host(boost::asio::io_context& loop, std::string socket) : io(loop), path(std::move(socket)) { connect(); }

  void connect() {
    Client::connect(io, path, patience, [this](auto opened) {
      REQUIRE(opened);
      client = std::move(*opened);
    });
    run_until(io, [this] { return client != nullptr; });
    client->serve_dma([this](Iova at, std::uint32_t bytes) { return load(static_cast<std::uint64_t>(at), bytes); },
                      [this](Iova at, std::span<const std::byte> data) {
                        std::memcpy(&registers[static_cast<std::uint64_t>(at)], data.data(), 8);
                        return 0;
                      });
    write(vfio::config_region, 0x18, 8, bar2_at);
    write(vfio::config_region, 0x04, 2, 0x6);
    ask(vfio::DmaMap{Iova{memory_at}, window_bytes, Access::read_write, memory_fd.duplicate().value()});
    write(0, offset::control, 4, 0x154);
    write(0, offset::link_control, 2, 0);
    write(0, offset::ppd0, 4, 0x8);
  }

  std::expected<Bytes, int> load(std::uint64_t at, std::uint32_t bytes) {
    if (bytes != 8 || !registers.contains(at)) return std::unexpected(EFAULT);
    return raw(registers[at]);
  }

  std::shared_ptr<std::optional<vfio::Reply>> start(vfio::Request request) {
    auto reply = std::make_shared<std::optional<vfio::Reply>>();
    client->submit(std::move(request), [reply](vfio::Reply answer) { reply->emplace(std::move(answer)); });
    return reply;
  }
  vfio::Reply ask(vfio::Request request) {
    const auto reply = start(std::move(request));
    run_until(io, [&reply] { return reply->has_value(); });
    REQUIRE(reply->value());
    return std::move(**reply);
  }
  std::uint64_t read(std::uint32_t region, std::uint64_t at, std::uint32_t width) {
    return value_of(ask(vfio::RegionRead{region, at, width}));
  }
  void write(std::uint32_t region, std::uint64_t at, std::size_t width, std::uint64_t value) {
    Bytes bytes = raw(value);
    bytes.resize(width);
    ask(vfio::RegionWrite{region, at, std::move(bytes)});
  }
  static std::uint64_t value_of(const vfio::Reply& reply) {
    const auto& bytes = std::get<vfio::Data>(reply.value()).bytes;
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
    return value;
  }

  bool link_up() { return read(0, offset::link_status, 2) == 0x2104; }
  void open_window(std::uint64_t iova) {
    write(0, offset::translation_base, 8, iova);
    write(0, offset::base_index, 2, std::bit_width(window_bytes) - 1U);
    write(0, offset::limit, 8, bar2_at + window_bytes);
  }
};

struct Pair {
  boost::asio::io_context io;
  sim::NtbService service{io, *sim::ntb::find_chip("gen4"), window_bytes};
  std::string faults = directory() + "/faults";
  bool listening = listen();
  Host a{io, directory() + "/a"}, b{io, directory() + "/b"};

  Pair() { wait_for_link(true); }
  bool listen() {
    REQUIRE(service.listen(Side::a, directory() + "/a"));
    REQUIRE(service.listen(Side::b, directory() + "/b"));
    REQUIRE(service.listen_for_faults(faults));
    return true;
  }
  void wait_for_link(bool up) {
    run_until(io, [&] { return a.link_up() == up; });
  }
};

} // namespace

TEST_CASE("two clients reach each other's memory, and interrupt each other") {
  Pair pair;
  for (auto [here, there] : {std::pair(&pair.a, &pair.b), std::pair(&pair.b, &pair.a)}) {
    there->open_window(memory_at);
    here->write(2, 8, 8, 0x1234);
    std::uint64_t value = 0;
    std::memcpy(&value, there->memory.bytes().data() + 8, sizeof value);
    CHECK(value == 0x1234);
    CHECK(here->read(2, 8, 8) == 0x1234);
    const Fd event = make_eventfd().value();
    vfio::SetIrqs set{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 4, 1, {}, {}};
    set.eventfds.push_back(event.duplicate().value());
    there->ask(std::move(set));
    here->write(0, offset::doorbells + 12, 4, 1); // doorbell 3, vector 4 after power-on
    CHECK(drain_eventfd(event.get()) == 1);
  }
}

TEST_CASE("what has no descriptor is reached by messages to its client") {
  Pair pair;
  pair.b.open_window(registers_at);
  pair.b.registers[registers_at + 0x28] = 0x77;
  CHECK(pair.a.read(2, 0x28, 8) == 0x77);
  pair.a.write(2, 0x30, 8, 0x99);
  CHECK(pair.a.read(2, 0x30, 8) == 0x99); // behind the write, on the same way
  CHECK(pair.b.registers[registers_at + 0x30] == 0x99);
  CHECK(pair.a.read(2, 0x38, 8) == UINT64_MAX); // the client knows nothing there
}

TEST_CASE("clients that read each other at the same time all get an answer") {
  Pair pair;
  for (auto* host : {&pair.a, &pair.b}) {
    host->open_window(registers_at);
    host->registers[registers_at] = 0x55;
  }
  std::vector<std::shared_ptr<std::optional<vfio::Reply>>> replies;
  for (int i = 0; i < 100; ++i)
    for (auto* host : {&pair.a, &pair.b}) replies.push_back(host->start(vfio::RegionRead{2, 0, 8}));
  run_until(pair.io, [&] { return std::ranges::all_of(replies, [](auto& reply) { return reply->has_value(); }); });
  for (const auto& reply : replies) {
    const auto value = Host::value_of(**reply);
    CHECK((value == 0x55 || value == UINT64_MAX));
  }
  CHECK(Host::value_of(**replies.back()) == 0x55); // nobody read after it
}

TEST_CASE("a client that dies takes the link down, and what the other waited for is ones; the next one starts afresh") {
  Pair pair;
  pair.b.open_window(registers_at);
  pair.b.client->serve_dma(
      [&pair](Iova, std::uint32_t) {
        pair.b.client->close(); // instead of an answer
        return std::unexpected(EIO);
      },
      [](Iova, std::span<const std::byte>) { return 0; });
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
  pair.wait_for_link(false);
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
  CHECK(pair.a.read(0, offset::interrupt_status, 8) == std::uint64_t{1} << 32);
  pair.b.client.reset();
  pair.b.connect();
  pair.wait_for_link(true);
  pair.b.open_window(registers_at);
  pair.b.registers[registers_at] = 5;
  CHECK(pair.a.read(2, 0, 8) == 5);
}

TEST_CASE("an end has one client at a time") {
  Pair pair;
  std::optional<Error> refused;
  Client::connect(pair.io, pair.a.path, patience, [&refused](auto opened) {
    REQUIRE_FALSE(opened);
    refused = opened.error();
  });
  run_until(pair.io, [&refused] { return refused.has_value(); });
  CHECK(refused->code == make_error_code(Errc::busy));
  CHECK(pair.a.link_up());
}

TEST_CASE("faults come by a socket, one to a line") {
  Pair pair;
  const auto say = [&pair](std::string_view lines, std::size_t expected) {
    boost::asio::local::stream_protocol::socket socket(pair.io);
    socket.connect({pair.faults});
    boost::asio::write(socket, boost::asio::buffer(lines));
    std::string reply(expected, '\0');
    std::size_t got = 0;
    run_until(pair.io, [&] {
      const auto more = ::recv(socket.native_handle(), reply.data() + got, expected - got, MSG_DONTWAIT);
      if (more > 0) got += static_cast<std::size_t>(more);
      return got == expected || more == 0;
    });
    return reply.substr(0, got);
  };
  CHECK(say("link down\nnonsense\nreads time-out\n", 14) == "ok\nunknown\nok\n");
  pair.wait_for_link(false);
  CHECK(say("link up\n", 3) == "ok\n");
  pair.wait_for_link(true);
  CHECK(say(std::string(300, 'x'), 1).empty()); // no line: closed
  pair.b.open_window(memory_at);
  CHECK(pair.a.read(2, 0, 8) == UINT64_MAX);
  CHECK(say("reads pass\n", 3) == "ok\n");
  CHECK(pair.a.read(2, 0, 8) == 0);
}

TEST_CASE("the counters tell what each end did") {
  Pair pair;
  pair.b.open_window(memory_at);
  pair.a.write(2, 0, 8, 1);
  pair.a.read(2, 0, 8);
  pair.a.write(0, offset::doorbells, 4, 1);
  const std::string line = pair.service.counters();
  const std::string of_a = line.substr(line.find("\"a\":"), line.find("\"b\":") - line.find("\"a\":"));
  CHECK(line.find(R"("model":"gen4","link_up":true,"link_changes":1)") != std::string::npos);
  CHECK(of_a.find(R"("clients":1,"windows":1,"reads":1,"read_bytes":8,)") != std::string::npos);
  CHECK(of_a.find(R"("writes":1,"written_bytes":8,"dropped_writes":0,"doorbells":1,)") != std::string::npos);
}
