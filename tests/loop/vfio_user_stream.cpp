// The stream's own limits, with short times.
#include "catch.hpp"
#include "skipped.hpp"
#include "user/stream.hpp"
#include "vfio_user_raw.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

using namespace smartio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

struct EndedStream {
  boost::asio::io_context io;
  std::optional<End> why;
  std::vector<std::size_t> sizes;
  std::shared_ptr<Stream> stream;
  Raw raw;

  explicit EndedStream(StreamLimits limits) : EndedStream(limits, nullptr) {}
  ~EndedStream() { stream->close(); }

private:
  EndedStream(StreamLimits limits, std::nullptr_t) : raw(io, Fd()) {
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
  EndedStream ended({.stall = brief});
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
  EndedStream ended({.stall = 5 * brief});
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
  EndedStream ended({.stall = 10 * brief});
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
  const bool much = GENERATE(false, true);
  EndedStream ended({.output = 4 * 1024 * 1024, .stall = much ? std::chrono::minutes(10) : brief});
  const Bytes data(1024 * 1024);
  if (!much) { // after a while
    ended.stream->send({1, Command::reset, 0, 0, 0}, data);
    CHECK(ended.stream->waiting() > 0);
    CHECK_FALSE(ended.why);
  } else { // at once
    for (int i = 0; i < 6; ++i) ended.stream->send({1, Command::reset, 0, 0, 0}, data);
    CHECK_FALSE(ended.why); // never from within send
  }
  run_until(
      ended.io, [&ended] { return ended.why.has_value(); }, std::chrono::seconds(20));
  CHECK(*ended.why == End::stalled);
}

TEST_CASE("large messages pass in both directions, with what waits behind them") {
  EndedStream ended({});
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
  EndedStream ended({});
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

TEST_CASE("a socket that lingers is closed beside the event loop") {
  EndedStream ended({});
  boost::asio::ip::tcp::acceptor acceptor(ended.io, {boost::asio::ip::address_v4::loopback(), 0});
  boost::asio::ip::tcp::socket lingers(ended.io), unread(ended.io);
  lingers.connect(acceptor.local_endpoint());
  acceptor.accept(unread);
  lingers.non_blocking(true);
  const Bytes much(1 << 20);
  for (boost::system::error_code error; !error;) lingers.write_some(boost::asio::buffer(much), error);
  lingers.set_option(boost::asio::socket_base::linger(true, 3));
  ended.stream->pause();
  ended.raw.send(message(Command::reset), {lingers.native_handle()});
  ::close(lingers.release()); // the last one is the stream's
  const auto start = Clock::now();
  ended.stream->resume();
  run_until(ended.io, [&ended] { return ended.sizes.size() == 1; });
  CHECK(ended.sizes.size() == 1);
  CHECK(Clock::now() - start < std::chrono::seconds(2));
}

TEST_CASE("a file of a file system that nobody answers for is neither looked at nor closed by the event loop") {
  const Fd server(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  std::string place = "/tmp/silent.XXXXXX";
  REQUIRE(::mkdtemp(place.data()) != nullptr);
  const auto options = "fd=" + std::to_string(server.get()) + ",rootmode=40000,user_id=0,group_id=0";
  if (!server || ::mount("silent", place.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
    ::rmdir(place.c_str());
    SKIPPED("no file system in user space can be mounted");
  }
  Fd file(::open(place.c_str(), O_PATH | O_CLOEXEC));
  const auto stands_in = harmless(std::move(file), Unknown::passed);
  struct stat status {};
  CHECK(::fstat(stands_in.get(), &status) == 0);
  CHECK(S_ISFIFO(status.st_mode));
  CHECK(::umount2(place.c_str(), MNT_DETACH) == 0);
  ::rmdir(place.c_str());
}

TEST_CASE("what is on this host, and answered by its kernel alone, comes as it was sent") {
  const auto passes = [](Fd fd, Unknown unknown = Unknown::refused) {
    struct stat before {
    }, after{};
    REQUIRE(::fstat(fd.get(), &before) == 0);
    const auto kept = harmless(std::move(fd), unknown);
    return ::fstat(kept.get(), &after) == 0 && before.st_ino == after.st_ino && before.st_dev == after.st_dev;
  };
  const auto open = [](const char* path) { return Fd(::open(path, O_RDONLY | O_CLOEXEC)); };
  CHECK(passes(make_memfd("memory", 4096).value()));
  CHECK(passes(make_eventfd().value()));
  CHECK(passes(open("/")));
  CHECK(passes(open("/dev/null")));
  CHECK(passes(open("/proc/self/status")));
  CHECK_FALSE(passes(Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))));
  const Fd keyboard(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  CHECK_FALSE(passes(keyboard.duplicate().value()));
}

TEST_CASE("the type of a mount is found by its id") {
  const std::string_view mounts = "2 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
                                  "22 2 0:20 / /a\\040-\\040b rw - fuse.sshfs x rw\n3 2 0:21 / /c rw";
  CHECK(mounted_type(mounts, "2") == "ext4");
  CHECK(mounted_type(mounts, "22") == "fuse.sshfs");
  CHECK(mounted_type(mounts, "3").empty());
  CHECK(mounted_type(mounts, "4").empty());
  CHECK(mounted_type(mounts, "").empty());
}
