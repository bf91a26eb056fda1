// The stream's own limits, with short times.
#include "catch.hpp"
#include "user/stream.hpp"
#include "vfio_user_raw.hpp"

#include <fcntl.h>
#include <sys/mman.h>

using namespace smartio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

struct Ended {
  boost::asio::io_context io;
  std::optional<End> why;
  std::vector<std::size_t> sizes;
  std::shared_ptr<Stream> stream;
  Raw raw;

  explicit Ended(StreamLimits limits) : Ended(limits, nullptr) {}
  ~Ended() { stream->close(); }

private:
  Ended(StreamLimits limits, std::nullptr_t) : raw(io, Fd()) {
    auto [end, socket] = Raw::pair(io);
    raw = std::move(end);
    stream = std::make_shared<Stream>(
        std::move(socket), limits, [this](Message message) { sizes.push_back(message.payload.size()); },
        [this](End reason) { why = reason; });
    stream->start();
  }
};

constexpr std::chrono::milliseconds brief{100};
using Clock = std::chrono::steady_clock;

} // namespace

TEST_CASE("a message that trickles in does not gain time with each byte") {
  Ended ended({.stall = brief});
  const auto start = Clock::now();
  const auto command = message(Command::reset, Bytes(1000));
  for (std::size_t i = 0; i < command.size() && !ended.why; ++i) {
    if (!ended.raw.send({&command[i], 1})) break;
    run_until(ended.io, [&ended, until = Clock::now() + std::chrono::milliseconds(10)] {
      return ended.why || Clock::now() > until;
    });
  }
  REQUIRE(ended.why);
  CHECK(*ended.why == End::stalled);
  CHECK(Clock::now() - start < std::chrono::seconds(5));
  CHECK(ended.sizes.empty());
}

TEST_CASE("an idle stream has no timer") {
  Ended ended({.stall = 5 * brief});
  ended.raw.send(message(Command::reset));
  const auto half = message(Command::reset, Bytes(8));
  ended.raw.send({half.data(), 10});
  settle(ended.io);
  ended.raw.send({half.data() + 10, half.size() - 10});
  settle(ended.io);
  CHECK(ended.sizes == std::vector<std::size_t>{0, 8});
  ended.io.restart();
  ended.io.run_for(8 * brief);
  CHECK_FALSE(ended.why);
}

TEST_CASE("each message has its own time") {
  Ended ended({.stall = 10 * brief});
  const auto command = message(Command::reset, Bytes(8));
  // Never a moment without a partial message, for longer than one may take.
  ended.raw.send({command.data(), 4});
  for (int i = 0; i < 8; ++i) {
    run_until(ended.io, [&ended, until = Clock::now() + 2 * brief] { return ended.why || Clock::now() > until; });
    ended.raw.send(join(std::span(command).subspan(4), std::span(command).first(4)));
    settle(ended.io);
  }
  CHECK_FALSE(ended.why);
  CHECK(ended.sizes.size() == 8);
}

TEST_CASE("an end that does not read is given up") {
  Ended ended({.output = 4 * 1024 * 1024, .stall = brief});
  const Bytes data(1024 * 1024);
  SECTION("after a while") {
    ended.stream->send({1, Command::reset, 0, 0, 0}, data);
    CHECK(ended.stream->waiting() > 0);
    CHECK_FALSE(ended.why);
  }
  SECTION("when too much waits") {
    for (int i = 0; i < 6; ++i) ended.stream->send({1, Command::reset, 0, 0, 0}, data);
    CHECK_FALSE(ended.why); // never from within send
  }
  run_until(ended.io, [&ended] { return ended.why.has_value(); });
  CHECK(*ended.why == End::stalled);
}

TEST_CASE("large messages pass in both directions, with what waits behind them") {
  Ended ended({});
  const Bytes data(1024 * 1024, std::byte{5});
  const auto eventfd = make_eventfd().value();
  const int fd = eventfd.get();
  for (std::uint16_t i = 0; i < 5; ++i) ended.stream->send({i, Command::reset, 0, 0, 0}, data, {}, {&fd, 1});
  for (std::uint16_t i = 0; i < 5; ++i) {
    const auto got = ended.raw.receive();
    REQUIRE(got);
    CHECK((got->header.id == i && got->payload == data && got->fds.size() == 1));
  }
  for (int i = 0; i < 5; ++i) REQUIRE(ended.raw.send(message(Command::reset, data)));
  run_until(ended.io, [&ended] { return ended.sizes.size() == 5; });
  CHECK(ended.sizes == std::vector<std::size_t>(5, data.size()));
}

TEST_CASE("the largest message is taken, one byte more is not") {
  Ended ended({});
  REQUIRE(ended.raw.send(message(Command::reset, Bytes(max_message - sizeof(Header)))));
  run_until(ended.io, [&ended] { return ended.sizes.size() == 1; });
  ended.raw.send(message(Command::reset, Bytes(max_message - sizeof(Header) + 1)));
  run_until(ended.io, [&ended] { return ended.why.has_value(); });
  CHECK(*ended.why == End::malformed);
}

TEST_CASE("descriptors that come are closed on exec") {
  boost::asio::io_context io;
  auto [raw, socket] = Raw::pair(io);
  std::vector<Fd> got;
  const auto stream = std::make_shared<Stream>(
      std::move(socket), StreamLimits{},
      [&got](Message message) {
        for (auto& fd : message.fds) got.push_back(std::move(fd));
      },
      [](End) {});
  stream->start();
  const Fd given(::memfd_create("no close-on-exec", 0));
  REQUIRE(raw.send(message(Command::get_info, Bytes(16)), {given.get(), given.get()}));
  run_until(io, [&got] { return got.size() == 2; });
  for (const auto& fd : got) CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  stream->close();
}
