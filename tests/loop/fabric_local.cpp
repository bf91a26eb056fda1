// The socket where two nodes of one host meet: who gets in, how long anybody is waited for, and what a lender that does
// not answer costs.
#include "as_nobody.hpp"
#include "catch.hpp"
#include "local.hpp"
#include "skipped.hpp"
#include "vfio_user_raw.hpp"

#include <cstddef>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace smartio::test;
using fabric::connect_local;
using fabric::LocalListener;
using fabric::Ticket;
using namespace std::chrono_literals;

namespace {

const Ticket ticket{std::string(64, 'a'), DeviceId{0x80002}, 0x1122334455667788};

struct Bed {
  boost::asio::io_context io;
  std::string token = fmt::format("{:032x}", ::getpid());
  std::vector<Ticket> tickets;
  std::vector<fabric::Socket> sockets;
  std::unique_ptr<LocalListener> listener;

  Result<void> listen() {
    auto made = LocalListener::listen(io, token, [this](Ticket got, fabric::Socket socket) {
      tickets.push_back(std::move(got));
      sockets.push_back(std::move(socket));
    });
    if (!made) return std::unexpected(made.error());
    listener = std::move(*made);
    return {};
  }
  /// What bind and connect want of the socket.
  int at_name(int (*call)(int, const sockaddr*, socklen_t), const Fd& socket) const {
    const std::string name = '\0' + ("smartio-" + token);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    return call(socket.get(), reinterpret_cast<const sockaddr*>(&address),
                static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size()));
  }
  Fd bound(int type = SOCK_STREAM) const {
    Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    REQUIRE(at_name(::bind, socket) == 0);
    return socket;
  }
  Raw connect() {
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(at_name(::connect, socket) == 0);
    return {io, std::move(socket)};
  }
  Bytes bytes_of(const Ticket& of) { return join(of.nonce, test::raw(of.device), test::raw(of.epoch)); }
};

/// With another effective user id, which is the one that sockets remember; nothing if this is not root.
auto as_another_user(auto doing) -> std::optional<decltype(doing())> {
  if (::geteuid() != 0 || ::seteuid(testing::nobody) != 0) return std::nullopt;
  auto done = doing();
  REQUIRE(::seteuid(0) == 0);
  return done;
}

std::chrono::milliseconds since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
}

} // namespace

TEST_CASE("nobody else listens at the same token while its listener is there, and it goes with that") {
  Bed bed, other;
  REQUIRE(bed.listen().has_value());
  CHECK_FALSE(other.listen().has_value());
  bed.listener.reset();
  CHECK(other.listen().has_value());
}

TEST_CASE("whoever is neither root nor this user is no borrower, whatever it shows") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  auto refused = as_another_user([&bed] { return bed.connect(); });
  if (!refused) SKIPPED("only root can become another user");
  refused->send(bed.bytes_of(ticket));
  auto good = bed.connect();
  REQUIRE(good.send(bed.bytes_of(ticket)));
  run_until(bed.io, [&bed] { return bed.tickets.size() == 1; });
  CHECK(refused->closed());
  CHECK(good.silent());
  CHECK(bed.tickets.size() == 1);
}

TEST_CASE("whoever is neither root nor this user is no lender, and is shown no ticket") {
  Bed bed;
  const Fd socket = bed.bound();
  const auto listened = as_another_user([&socket] { return ::listen(socket.get(), 8); });
  if (!listened) SKIPPED("only root can become another user");
  REQUIRE(*listened == 0);
  std::optional<Error> error;
  connect_local(bed.io, bed.token, ticket, 60s, [&error](auto result) { error = result.error(); });
  run_until(bed.io, [&error] { return error.has_value(); });
  CHECK(error->code == make_error_code(Errc::not_permitted));
  CHECK(error->context == "What listens at @smartio-" + bed.token + " belongs to another user.");
  const Fd arrived(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  char byte = 0;
  CHECK(::recv(arrived.get(), &byte, 1, 0) == 0);
}

TEST_CASE("a lender in another network namespace is not there") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  std::optional<Error> error;
  bool elsewhere = false;
  std::thread([&] { // a namespace of this thread's alone
    elsewhere = ::unshare(CLONE_NEWNET) == 0;
    boost::asio::io_context io;
    if (elsewhere) connect_local(io, bed.token, ticket, 60s, [&error](auto result) { error = result.error(); });
    io.run();
  })
      .join();
  if (!elsewhere) SKIPPED("only root can have a network namespace of its own");
  REQUIRE(error);
  CHECK(error->code == make_error_code(Errc::peer_down));
}

TEST_CASE("a ticket says which loan it is for, in one piece or byte by byte") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  auto at_once = bed.connect(), slowly = bed.connect();
  const auto bytes = bed.bytes_of(ticket);
  REQUIRE(at_once.send(bytes));
  for (const auto byte : bytes) REQUIRE(slowly.send(std::span(&byte, 1)));
  run_until(bed.io, [&bed] { return bed.tickets.size() == 2; });
  for (const auto& got : bed.tickets) {
    CHECK(got.nonce == ticket.nonce);
    CHECK(got.device == ticket.device);
    CHECK(got.epoch == ticket.epoch);
  }
  for (auto& socket : bed.sockets) CHECK((::fcntl(socket.native_handle(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("who says nothing, or all but the last byte, is closed after two seconds and keeps nobody else waiting") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  const auto start = std::chrono::steady_clock::now();
  auto mute = bed.connect(), almost = bed.connect(), gone = bed.connect();
  const auto bytes = bed.bytes_of(ticket);
  REQUIRE(almost.send(std::span(bytes).first(bytes.size() - 1)));
  gone.close();
  auto good = bed.connect();
  REQUIRE(good.send(bytes));
  run_until(bed.io, [&bed] { return bed.tickets.size() == 1; });
  CHECK(mute.silent());
  CHECK(mute.closed());
  CHECK(almost.closed());
  CHECK(since(start) >= 1900ms);
  CHECK(bed.tickets.size() == 1);
  settle(bed.io);
  CHECK(good.silent()); // whose time is not counted any more
}

TEST_CASE("of many who say nothing only the newest are kept, and whoever has shown a ticket is not counted") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  auto served = bed.connect();
  REQUIRE(served.send(bed.bytes_of(ticket)));
  run_until(bed.io, [&bed] { return bed.tickets.size() == 1; });
  const auto start = std::chrono::steady_clock::now();
  std::vector<Raw> mute;
  for (int i = 0; i < 100; ++i) {
    mute.push_back(bed.connect());
    settle(bed.io);
  }
  CHECK(mute.front().closed());
  CHECK(mute[35].closed());
  CHECK(since(start) < 1900ms); // not by their time
  CHECK(mute.back().silent());
  CHECK(served.silent());
}

TEST_CASE("a borrower shows its ticket, then speaks vfio-user; its socket is closed on exec") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  std::optional<Result<std::shared_ptr<vfio::user::Client>>> opened;
  connect_local(bed.io, bed.token, ticket, 60s, [&opened](auto result) { opened = std::move(result); });
  run_until(bed.io, [&bed] { return bed.sockets.size() == 1; });
  CHECK(bed.tickets[0].nonce == ticket.nonce);
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename());
    struct stat status {};
    if (fd > 2 && ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
      CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  }
  Raw lender(bed.io, Fd(bed.sockets[0].release()));
  const auto hello = lender.receive();
  REQUIRE(hello);
  CHECK(hello->header.command == Command::version);
  lender.send(message(Command::version, version("{}"), hello->header.id, vfio::user::type_reply));
  run_until(bed.io, [&opened] { return opened.has_value(); });
  CHECK(opened->has_value());
}

TEST_CASE("a lender that is not there, or never answers, is told of in time and holds up nothing") {
  Bed bed;
  std::optional<Error> error;
  const auto connect = [&](std::chrono::milliseconds timeout) {
    error.reset();
    const auto start = std::chrono::steady_clock::now();
    connect_local(bed.io, bed.token, ticket, timeout, [&error](auto result) { error = result.error(); });
    CHECK(since(start) < 5s); // the call itself
    CHECK_FALSE(error);       // later, from the event loop
    run_until(bed.io, [&error] { return error.has_value(); });
  };
  SECTION("nothing there") {
    connect(60s);
    CHECK(error->code == make_error_code(Errc::peer_down));
  }
  SECTION("a socket of another kind") {
    const Fd other = bed.bound(SOCK_DGRAM);
    connect(60s);
    CHECK(error->code == make_error_code(Errc::peer_down));
  }
  SECTION("nobody accepts, and there is no room to wait") {
    const Fd full = bed.bound();
    REQUIRE(::listen(full.get(), 0) == 0);
    const auto waits = bed.connect();
    connect(100ms);
    CHECK(error->code == make_error_code(Errc::timed_out));
  }
  SECTION("nobody accepts") {
    const Fd mute = bed.bound();
    REQUIRE(::listen(mute.get(), 8) == 0);
    connect(100ms);
    CHECK(error->code == make_error_code(Errc::timed_out));
  }
}

TEST_CASE("a listener without descriptors left waits for some instead of spinning, and then goes on") {
  Bed bed;
  REQUIRE(bed.listen().has_value());
  settle(bed.io);
  auto waiting = bed.connect();
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  std::size_t turns = 0;
  const auto end = std::chrono::steady_clock::now() + 300ms;
  while (std::chrono::steady_clock::now() < end) turns += bed.io.run_one_for(10ms);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(turns < 50);
  REQUIRE(waiting.send(bed.bytes_of(ticket)));
  run_until(bed.io, [&bed] { return bed.tickets.size() == 1; });
}
