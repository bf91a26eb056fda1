// The client against servers that answer what they should not.
#include "catch.hpp"
#include "user/client.hpp"
#include "user/version.hpp"
#include "vfio_user_raw.hpp"

#include <fcntl.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

/// A client and the other end of its socket; the greeting is up to the test.
struct Greeting {
  boost::asio::io_context& io;
  Raw raw;
  std::shared_ptr<Client> client;
  std::optional<Error> error;
  std::optional<Raw::Got> hello;

  explicit Greeting(boost::asio::io_context& loop, std::chrono::milliseconds timeout = std::chrono::seconds(60))
      : Greeting(loop, Raw::pair(loop), timeout) {}

  void outcome() {
    run_until(io, [this] { return client || error; });
  }

private:
  Greeting(boost::asio::io_context& loop, std::pair<Raw, Socket> ends, std::chrono::milliseconds timeout)
      : io(loop), raw(std::move(ends.first)) {
    Client::start(std::move(ends.second), timeout, [this](auto opened) {
      REQUIRE((!client && !error));
      if (opened)
        client = std::move(*opened);
      else
        error = opened.error();
    });
    CHECK((!client && !error)); // later
    hello = raw.receive();
    REQUIRE(hello);
  }
};

/// A client that has greeted.
struct Driven : Greeting {
  int lost = 0;

  explicit Driven(boost::asio::io_context& loop, std::string_view capabilities = "{}") : Greeting(loop) {
    raw.send(message(Command::version, version(capabilities), hello->header.id, type_reply));
    outcome();
    REQUIRE(client);
    client->on_lost([this] { ++lost; });
  }
};

Bytes reply_to(const Raw::Got& command, const Bytes& payload) {
  return message(command.header.command, payload, command.header.id, type_reply);
}

} // namespace

TEST_CASE("the client says version 0.1 and what it takes") {
  boost::asio::io_context io;
  const Greeting greeting(io);
  CHECK((greeting.hello->header.command == Command::version && greeting.hello->header.flags == 0));
  CHECK(decode_version(greeting.hello->payload) == own_version);
}

TEST_CASE("servers that do not greet as they should are given up with the reason") {
  boost::asio::io_context io;
  Greeting greeting(io, std::chrono::milliseconds(300));
  const auto answer = [&greeting](const Bytes& payload, std::uint32_t flags = type_reply, std::uint32_t error = 0) {
    greeting.raw.send(message(Command::version, payload, greeting.hello->header.id, flags, error));
  };
  Errc expected = Errc::bad_request;
  SECTION("busy") {
    answer({}, type_reply | flag_error, EBUSY);
    expected = Errc::busy;
  }
  SECTION("refused") { answer({}, type_reply | flag_error, EINVAL); }
  SECTION("refused without a reason") { answer({}, type_reply | flag_error, 0); }
  SECTION("gone") {
    greeting.raw.close();
    expected = Errc::peer_down;
  }
  SECTION("silent") { expected = Errc::timed_out; }
  SECTION("stuck in the middle") {
    greeting.raw.send(Bytes(7));
    expected = Errc::timed_out;
  }
  SECTION("something else") { greeting.raw.send(Bytes(200, std::byte{'x'})); }
  SECTION("a command") { answer(version("{}"), type_command); }
  SECTION("another command's reply") { greeting.raw.send(message(Command::get_info, Bytes(16), 0, type_reply)); }
  SECTION("another major version") { answer(version("{}", 1)); }
  SECTION("a later minor version") { answer(version("{}", 0, 2)); }
  SECTION("malformed text") { answer(version(R"({"capabilities":7})")); }
  SECTION("no room for data") { answer(version(R"({"capabilities":{"max_data_xfer_size":16}})")); }
  SECTION("nothing") { answer({}); }
  greeting.outcome();
  REQUIRE(greeting.error);
  CHECK(greeting.error->code == expected);
  CHECK(greeting.error->context.ends_with('.'));
  CHECK(greeting.raw.closed());
}

TEST_CASE("servers that say nothing of themselves get one descriptor a message") {
  boost::asio::io_context io;
  Greeting greeting(io);
  greeting.raw.send(message(Command::version, Bytes(4), greeting.hello->header.id, type_reply)); // 0.0
  greeting.outcome();
  REQUIRE(greeting.client);
  SetIrqs set{0x24, msix, 0, 3, {}, {}};
  for (int i = 0; i < 3; ++i) set.eventfds.push_back(make_eventfd().value());
  bool done = false;
  greeting.client->submit(std::move(set), [&done](Reply reply) {
    CHECK(reply);
    done = true;
  });
  for (std::uint32_t i = 0; i < 3; ++i) {
    const auto command = greeting.raw.receive();
    CHECK(command->fds.size() == 1);
    CHECK(load<SetIrqsBody>(command->payload)->start == i);
    greeting.raw.send(reply_to(*command, {}));
  }
  run_until(io, [&done] { return done; });
}

TEST_CASE("accesses are cut to what the server takes") {
  boost::asio::io_context io;
  Driven driven(io, R"({"capabilities":{"max_data_xfer_size":4096}})");
  Bytes data;
  driven.client->submit(RegionRead{0, 100, 10000}, [&data](Reply reply) { data = std::get<Data>(*reply).bytes; });
  for (const std::uint32_t count : {4096U, 4096U, 1808U}) {
    const auto command = driven.raw.receive();
    CHECK(load<AccessBody>(command->payload)->count == count);
    driven.raw.send(reply_to(*command, join(command->payload, Bytes(count, static_cast<std::byte>(count & 255)))));
  }
  run_until(io, [&data] { return !data.empty(); });
  CHECK(data.size() == 10000);
  CHECK(data.back() == std::byte{1808 & 255});
  bool written = false;
  driven.client->submit(RegionWrite{0, 100, data}, [&written](const Reply& reply) { written = reply.has_value(); });
  for (const std::uint32_t count : {4096U, 4096U, 1808U}) {
    const auto command = driven.raw.receive();
    const auto body = load<AccessBody>(command->payload);
    CHECK(body->count == count);
    CHECK(command->payload.size() == sizeof *body + count);
    driven.raw.send(reply_to(*command, test::raw(*body)));
  }
  run_until(io, [&written] { return written; });
}

TEST_CASE("replies that fit no command close the connection, and everything completes with ENODEV") {
  boost::asio::io_context io;
  const Driven first(io); // from now on the loop has its own descriptors
  const auto before = open_descriptors();
  {
    Driven driven(io);
    const auto eventfd = make_eventfd().value();
    std::vector<int> errors;
    const auto keep = [&errors](Reply reply) { errors.push_back(reply ? 0 : reply.error()); };
    driven.client->submit(RegionRead{0, 0, 4}, keep);
    driven.client->submit(Reset{}, keep);
    const auto read = driven.raw.receive();
    const auto reset = driven.raw.receive();
    const auto body = test::raw(AccessBody{0, 0, 4});
    SECTION("an id nobody used") {
      driven.raw.send(message(Command::region_read, join(body, Bytes(4)), 999, type_reply));
    }
    SECTION("another command") { driven.raw.send(message(Command::reset, {}, read->header.id, type_reply)); }
    SECTION("less data than asked") { driven.raw.send(reply_to(*read, join(body, Bytes(3)))); }
    SECTION("more data than asked") { driven.raw.send(reply_to(*read, join(body, Bytes(5)))); }
    SECTION("no data") { driven.raw.send(reply_to(*read, {})); }
    SECTION("an error with data") {
      driven.raw.send(message(Command::region_read, Bytes(8), read->header.id, type_reply | flag_error, 5));
    }
    SECTION("a descriptor") { driven.raw.send(reply_to(*reset, {}), {eventfd.get()}); }
    SECTION("an error with a descriptor") {
      driven.raw.send(message(Command::reset, {}, reset->header.id, type_reply | flag_error, 5), {eventfd.get()});
    }
    SECTION("too many descriptors") { driven.raw.send(reply_to(*reset, {}), std::vector(64, eventfd.get())); }
    SECTION("a size that cannot be") { driven.raw.send(test::raw(Header{0, Command::reset, 3, type_reply, 0})); }
    SECTION("a size above all limits") {
      driven.raw.send(test::raw(Header{0, Command::reset, 1U << 31, type_reply, 0}));
    }
    SECTION("neither command nor reply") { driven.raw.send(test::raw(Header{0, Command::reset, 16, 7, 0})); }
    run_until(io, [&driven] { return driven.lost == 1; });
    CHECK(errors == std::vector{ENODEV, ENODEV});
    CHECK(driven.raw.closed());
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("a reply given twice closes the connection") {
  boost::asio::io_context io;
  Driven driven(io);
  int done = 0;
  driven.client->submit(Reset{}, [&done](Reply) { ++done; });
  const auto reset = driven.raw.receive();
  driven.raw.send(join(reply_to(*reset, {}), reply_to(*reset, {})));
  run_until(io, [&driven] { return driven.lost == 1; });
  CHECK(done == 1);
}

TEST_CASE("errors of the server are the errno of the request; absurd ones are EIO") {
  boost::asio::io_context io;
  Driven driven(io);
  for (const auto& [sent, got] : {std::pair{13U, 13}, {0U, EIO}, {UINT32_MAX, EIO}, {4096U, EIO}}) {
    int error = 0;
    driven.client->submit(Reset{}, [&error](Reply reply) { error = reply.error(); });
    const auto reset = driven.raw.receive();
    driven.raw.send(message(Command::reset, {}, reset->header.id, type_reply | flag_error, sent));
    run_until(io, [&error] { return error != 0; });
    CHECK(error == got);
  }
  CHECK(driven.lost == 0);
}

TEST_CASE("replies out of order find their requests") {
  boost::asio::io_context io;
  Driven driven(io);
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) driven.client->submit(Reset{}, [&order, i](Reply) { order.push_back(i); });
  std::vector<Raw::Got> commands;
  for (int i = 0; i < 3; ++i) commands.push_back(*driven.raw.receive());
  for (const auto i : {1U, 2U, 0U}) driven.raw.send(reply_to(commands[i], {}));
  run_until(io, [&order] { return order.size() == 3; });
  CHECK(order == std::vector{1, 2, 0});
}

TEST_CASE("ids wrap around without confusion") {
  boost::asio::io_context io;
  Driven driven(io);
  const auto reset = message(Command::reset);
  int done = 0;
  for (int i = 0; i < 70000; ++i) {
    driven.client->submit(Reset{}, [&done](Reply reply) { done += reply ? 1 : 0; });
    const auto command = driven.raw.receive();
    driven.raw.send(reply_to(*command, {}));
  }
  run_until(io, [&done] { return done == 70000; });
}

TEST_CASE("a region's info that does not fit is asked for again, once") {
  boost::asio::io_context io;
  Driven driven(io);
  const auto eventfd = make_eventfd().value();
  std::optional<Reply> reply;
  driven.client->submit(GetRegionInfo{0}, [&reply](Reply answer) { reply = std::move(answer); });
  const auto flags = region_flag_read | region_flag_mmap | region_flag_caps;
  const auto first = driven.raw.receive();
  driven.raw.send(reply_to(*first, test::raw(RegionInfoBody{8192, flags, 0, 0, 65536, 0})));
  const auto second = driven.raw.receive();
  CHECK(load<RegionInfoBody>(second->payload)->argsz == 8192);
  SECTION("whole at last") {
    const auto whole = join(test::raw(RegionInfoBody{8192, flags, 0, 32, 65536, 0}),
                            test::raw(SparseCap{1, 1, 0, 1, 0}), test::raw(SparseArea{4096, 4096}));
    driven.raw.send(reply_to(*second, whole), {eventfd.get()});
    run_until(io, [&reply] { return reply.has_value(); });
    CHECK(std::get<RegionInfo>(**reply).areas.size() == 1);
  }
  SECTION("the server never has enough") {
    driven.raw.send(reply_to(*second, test::raw(RegionInfoBody{16384, flags, 0, 0, 65536, 0})));
    run_until(io, [&reply] { return reply.has_value(); });
    CHECK(std::get<RegionInfo>(**reply).areas.empty());
  }
}

TEST_CASE("a descriptor that cannot be a region's registers goes to nobody, and they are reached by message") {
  boost::asio::io_context io;
  Driven driven(io);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const Fd out(ends[0]), in(ends[1]), directory(::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto [socket, other] = Raw::pair(io);
  const auto empty = make_memfd("empty", 0).value();
  const auto good = make_memfd("good", 8192).value();
  const struct {
    const char* what;
    int fd;
    bool mapped;
  } rows[]{
      {"a pipe", out.get(), false},     {"its other end", in.get(), false},    {"a directory", directory.get(), false},
      {"a socket", socket.fd(), false}, {"an empty file", empty.get(), false}, {"a file", good.get(), true}};
  for (const auto& row : rows) {
    INFO(row.what);
    std::optional<Reply> reply;
    driven.client->submit(GetRegionInfo{0}, [&reply](Reply answer) { reply = std::move(answer); });
    const auto command = driven.raw.receive();
    driven.raw.send(reply_to(*command, test::raw(RegionInfoBody{32, 7, 0, 0, 4096, 4096})), {row.fd});
    run_until(io, [&reply] { return reply.has_value(); });
    REQUIRE(*reply);
    const auto& info = std::get<RegionInfo>(**reply);
    CHECK((info.size == 4096 && static_cast<bool>(info.fd) == row.mapped && info.areas.empty() != row.mapped));
    CHECK(info.flags == (row.mapped ? 7 : 3));
  }
}

TEST_CASE("absurd room for a region's info is not asked for") {
  boost::asio::io_context io;
  Driven driven(io);
  std::optional<Reply> reply;
  driven.client->submit(GetRegionInfo{0}, [&reply](Reply answer) { reply = std::move(answer); });
  const auto command = driven.raw.receive();
  driven.raw.send(reply_to(*command, test::raw(RegionInfoBody{UINT32_MAX, 15, 0, 0, 4096, 0})));
  run_until(io, [&reply] { return reply.has_value(); });
  CHECK(std::get<RegionInfo>(**reply).areas.empty());
}

TEST_CASE("commands of the server are answered with an errno") {
  boost::asio::io_context io;
  Driven driven(io);
  const auto refusal = [&driven](const Bytes& command, std::vector<int> fds = {}) {
    const auto reply = driven.raw.ask(command, std::move(fds));
    REQUIRE((reply && reply->failed() && reply->payload.empty()));
    return static_cast<int>(reply->header.error);
  };
  const auto body = test::raw(DmaAccessBody{0, 4});
  CHECK(refusal(message(Command::dma_read, body)) == EFAULT);
  CHECK(refusal(message(Command::dma_write, join(body, Bytes(4)))) == EFAULT);
  CHECK(refusal(message(Command::dma_read, test::raw(DmaAccessBody{0, UINT64_MAX}))) == EINVAL);
  CHECK(refusal(message(Command::dma_write, join(body, Bytes(3)))) == EINVAL);
  CHECK(refusal(message(Command::dma_read)) == EINVAL);
  const auto descriptor = make_eventfd().value();
  CHECK(refusal(message(Command::dma_read, body), {descriptor.get()}) == EINVAL);
  CHECK(refusal(message(Command::dma_write, join(body, Bytes(4))), {descriptor.get()}) == EINVAL);
  CHECK(refusal(message(Command::reset)) == EOPNOTSUPP);
  CHECK(refusal(message(static_cast<Command>(4711), Bytes(100))) == EOPNOTSUPP);
  driven.raw.send(message(Command::dma_read, body, 1, flag_no_reply));
  CHECK(driven.raw.silent());
  CHECK(driven.lost == 0);
}

TEST_CASE("a server that goes at any byte of a reply loses the device") {
  boost::asio::io_context io;
  const auto whole =
      join(test::raw(Header{0, Command::region_read, 36, type_reply, 0}), test::raw(AccessBody{0, 0, 4}), Bytes(4));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    Driven driven(io);
    int error = 0;
    driven.client->submit(RegionRead{0, 0, 4}, [&error](Reply reply) { error = reply ? -1 : reply.error(); });
    REQUIRE(driven.raw.receive());
    driven.raw.send({whole.data(), size});
    driven.raw.close();
    run_until(io, [&driven] { return driven.lost == 1; });
    REQUIRE(error == ENODEV);
  }
}

TEST_CASE("a client dropped by its owner in a completion is gone, and nothing else happens") {
  boost::asio::io_context io;
  Driven driven(io);
  int second = 0;
  driven.client->submit(Reset{}, [&driven](Reply) { driven.client.reset(); });
  driven.client->submit(Reset{}, [&second](Reply reply) { second = reply.error(); });
  const auto first = driven.raw.receive();
  const auto next = driven.raw.receive();
  driven.raw.send(join(reply_to(*first, {}), reply_to(*next, {})));
  run_until(io, [&second] { return second != 0; });
  CHECK(second == ECANCELED);
  CHECK(driven.raw.closed());
  CHECK(driven.lost == 0);
}

TEST_CASE("as many requests may be under way as can be told apart; the next is refused, and the others are not lost") {
  int answered = 0, refused = 0;
  boost::asio::io_context io;
  Driven driven(io);
  const auto ask = [&] { driven.client->submit(Reset{}, [&](Reply reply) { (reply ? answered : refused) += 1; }); };
  for (int i = 0; i < 32768; ++i) ask();
  CHECK(refused == 0);
  ask();
  CHECK(refused == 1);
  for (int i = 0; i < 32768; ++i) {
    const auto command = driven.raw.receive();
    REQUIRE(command);
    REQUIRE(driven.raw.send(reply_to(*command, {})));
  }
  run_until(io, [&] { return answered == 32768; });
  ask();
  CHECK(refused == 1);
  CHECK(driven.lost == 0);
}

TEST_CASE("what a server does not read is bounded, for requests and posted writes alike") {
  boost::asio::io_context io;
  Driven driven(io, R"({"capabilities":{"max_data_xfer_size":1048576}})");
  const RegionWrite write{0, 0, Bytes(1024 * 1024)};
  int posted = 0;
  while (posted < 100 && driven.client->post(write) == 0) ++posted;
  CHECK(posted >= 16); // MiB wait, and what the socket holds
  CHECK(posted <= 18);
  CHECK(driven.client->post(write) == ENOBUFS);
  int error = 0;
  driven.client->submit(Reset{}, [&error](Reply reply) { error = reply ? 0 : reply.error(); });
  CHECK(error == ENOBUFS);
  for (int i = 0; i < posted; ++i) REQUIRE(driven.raw.receive());
  CHECK(driven.client->post(write) == 0);
  CHECK(driven.lost == 0);
}

TEST_CASE("a write that nobody waits for is not answered, unless the server does not keep up; all come, in order") {
  boost::asio::io_context io;
  Driven driven(io);
  constexpr std::uint64_t most = 5000;
  std::uint64_t submitted = 0, done = 0;
  const auto write = [&](bool posted) {
    driven.client->submit(RegionWrite{0, 8 * submitted++, Bytes(4096), posted},
                          [&done](const Reply& reply) { done += reply.has_value(); });
  };
  write(true);
  CHECK(done == 1); // at once
  write(false);
  CHECK(done == 1);
  while (done == submitted - 1 && submitted < most) write(true); // until the socket takes no more
  CHECK(submitted < most);
  for (std::uint64_t i = 0; i < submitted; ++i) {
    const auto got = driven.raw.receive();
    REQUIRE(got);
    CHECK(load<AccessBody>(got->payload)->offset == 8 * i);
    const bool answers = i == 1 || i == submitted - 1;
    CHECK((got->header.flags & flag_no_reply) == (answers ? 0 : flag_no_reply));
    if (answers) driven.raw.send(reply_to(*got, test::raw(*load<AccessBody>(got->payload))));
  }
  run_until(io, [&] { return done == submitted; });
  CHECK(driven.lost == 0);
}

TEST_CASE("well-formed replies that lie lose the device; what they say is never used") {
  struct Row {
    const char* what;
    Request request;
    std::function<Bytes(const Raw::Got&)> reply;
    std::size_t fds = 0;
  };
  const auto regions = [](RegionInfoBody body, std::vector<SparseArea> areas) {
    Bytes payload = test::raw(body);
    if (!areas.empty()) {
      payload =
          join(payload,
               test::raw(SparseCap{sparse_cap_id, sparse_cap_version, 0, static_cast<std::uint32_t>(areas.size()), 0}));
      payload = join(payload, areas);
    }
    return [payload](const Raw::Got& command) { return reply_to(command, payload); };
  };
  const auto same = [](const Bytes& payload) {
    return [payload](const Raw::Got& command) { return reply_to(command, payload); };
  };
  constexpr auto mapped = region_flag_read | region_flag_mmap, caps = mapped | region_flag_caps;
  Row rows[]{
      {"another region's info", GetRegionInfo{1}, regions({32, 3, 2, 0, 4096, 0}, {})},
      {"an area beyond its region", GetRegionInfo{0}, regions({64, caps, 0, 32, 4096, 0}, {{4096, 4096}}), 1},
      {"an area of nothing", GetRegionInfo{0}, regions({64, caps, 0, 32, 4096, 0}, {{0, 0}}), 1},
      {"an area that wraps", GetRegionInfo{0}, regions({64, caps, 0, 32, 4096, 0}, {{UINT64_MAX - 4095, 8192}}), 1},
      {"an offset that no file has", GetRegionInfo{0}, regions({32, mapped, 0, 0, 4096, UINT64_MAX - 4095}, {}), 1},
      {"a capability before the fixed part's end", GetRegionInfo{0}, regions({64, caps, 0, 16, 4096, 0}, {{0, 4096}}),
       1},
      {"a capability behind the reply", GetRegionInfo{0}, regions({64, caps, 0, 65, 4096, 0}, {{0, 4096}}), 1},
      {"a descriptor for a region that cannot be mapped", GetRegionInfo{0}, regions({32, 3, 0, 0, 4096, 0}, {}), 1},
      {"another interrupt's info", GetIrqInfo{1}, same(test::raw(IrqInfoBody{16, 1, 2, 8}))},
      {"fewer bytes than were read", RegionRead{0, 0, 8}, same(join(region_read(0, 0, 8), Bytes(4)))},
      {"another number of bytes", RegionRead{0, 0, 8}, same(join(region_read(0, 0, 4), Bytes(4)))},
      {"another number of bytes written", RegionWrite{0, 0, Bytes(8)}, same(region_read(0, 0, 4))},
      {"a descriptor with what was read", RegionRead{0, 0, 8}, same(join(region_read(0, 0, 8), Bytes(8))), 1},
      {"a reset that says something", Reset{}, same(Bytes(4))},
      {"half an unmap", DmaUnmap{Iova{0}, 4096}, same(Bytes(23))},
      {"another id", Reset{},
       [](const Raw::Got& command) {
         return message(Command::reset, {}, static_cast<std::uint16_t>(command.header.id + 1), type_reply);
       }},
      {"another command", Reset{},
       [](const Raw::Got& command) { return message(Command::dma_map, {}, command.header.id, type_reply); }},
      {"an error with data", Reset{},
       [](const Raw::Got& command) {
         return message(Command::reset, Bytes(4), command.header.id, type_reply | flag_error, EIO);
       }},
  };
  for (auto& row : rows) {
    INFO(row.what);
    boost::asio::io_context io;
    Driven driven(io);
    const auto before = open_descriptors();
    const auto fd = make_eventfd().value();
    std::optional<Reply> reply;
    driven.client->submit(std::move(row.request), [&reply](Reply answer) { reply = std::move(answer); });
    const auto command = driven.raw.receive();
    REQUIRE(command);
    REQUIRE(driven.raw.send(row.reply(*command), std::vector<int>(row.fds, fd.get())));
    run_until(io, [&reply] { return reply.has_value(); });
    CHECK_FALSE(reply->has_value());
    CHECK((!*reply && reply->error() == ENODEV));
    CHECK(driven.lost == 1);
    CHECK(open_descriptors() <= before + 1); // ours
  }
}
