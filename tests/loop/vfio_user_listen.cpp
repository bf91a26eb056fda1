// A server's socket in the file system, and the clients that come to it.
#include "catch.hpp"
#include "small_device.hpp"
#include "user/client.hpp"
#include "user/server.hpp"
#include "vfio_user_raw.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace smartio::test;

namespace {

/// A folder of its own, removed at the end.
struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/vfio-user-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const char* name) const { return path + "/" + name; }
};

/// Sockets that a program started now would have.
unsigned sockets_left_to_exec() {
  unsigned count = 0;
  for (int fd = 3; fd < 1024; ++fd) {
    struct stat status {};
    const int flags = ::fcntl(fd, F_GETFD);
    count += flags >= 0 && (flags & FD_CLOEXEC) == 0 && ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
  }
  return count;
}

/// One device, one client at a time.
struct Exclusive {
  boost::asio::io_context& io;
  std::shared_ptr<SmallDevice> device = std::make_shared<SmallDevice>();
  bool taken = false;
  int accepted = 0, gone = 0;
  ::ucred last{};
  std::unique_ptr<Server> server;

  Exclusive(boost::asio::io_context& loop, const std::string& path) : io(loop) {
    auto listening = Server::listen(
        io, path, [this](const ::ucred& client) { return accept(client); },
        [this] {
          ++gone;
          taken = false;
        });
    REQUIRE(listening.has_value());
    server = std::move(*listening);
  }
  std::expected<std::shared_ptr<Device>, int> accept(const ::ucred& client) {
    if (std::exchange(taken, true)) return std::unexpected(EBUSY);
    ++accepted;
    last = client;
    return device;
  }
};

Result<std::shared_ptr<Client>> connect(boost::asio::io_context& io, const std::string& path) {
  std::optional<Result<std::shared_ptr<Client>>> result;
  Client::connect(io, path, std::chrono::seconds(60), [&result](auto opened) { result = std::move(opened); });
  CHECK_FALSE(result.has_value()); // later
  run_until(io, [&result] { return result.has_value(); });
  return std::move(*result);
}

std::error_code refusal(boost::asio::io_context& io, const std::string& path) {
  const auto server = Server::listen(
      io, path, [](const ::ucred&) { return std::unexpected(EBUSY); }, [] {});
  if (server) return {};
  CHECK_FALSE(server.error().context.empty());
  return server.error().code;
}

bool exists(const std::string& path) { return std::filesystem::exists(std::filesystem::symlink_status(path)); }

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

/// False when the server has to accept others first.
bool connect_now(const Fd& socket, const std::string& path) {
  const auto address = address_of(path);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return true;
  REQUIRE(errno == EAGAIN);
  return false;
}

/// A socket file that nobody listens on.
void leave_stale(const std::string& path) {
  const auto address = address_of(path);
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

} // namespace

TEST_CASE("a server's socket is its owner's alone, and removed at the end") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  const auto mask = ::umask(0);
  {
    const Exclusive exclusive(io, path);
    struct stat status {};
    REQUIRE(::lstat(path.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0600);
  }
  ::umask(mask);
  CHECK_FALSE(exists(path));
}

TEST_CASE("no socket of a server or its clients outlives exec") {
  boost::asio::io_context io;
  const Folder folder;
  const auto before = sockets_left_to_exec();
  Exclusive exclusive(io, folder / "s");
  const auto client = connect(io, folder / "s");
  REQUIRE(client.has_value());
  CHECK(sockets_left_to_exec() == before);
}

TEST_CASE("a stale socket is replaced, a live server and anything else are not") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  SECTION("stale") {
    leave_stale(path);
    const Exclusive exclusive(io, path);
    CHECK(connect(io, path).has_value());
  }
  SECTION("live") {
    const Exclusive exclusive(io, path);
    CHECK(refusal(io, path) == Errc::busy);
    CHECK(connect(io, path).has_value()); // undisturbed
    CHECK(exclusive.accepted == 1);
  }
  SECTION("live, and with more clients than it has accepted") {
    const Exclusive exclusive(io, path);
    std::vector<Fd> clients;
    while (connect_now(clients.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), path)) {}
    CHECK(refusal(io, path) == Errc::busy);
    CHECK(exists(path));
  }
  SECTION("stale, while another server is just starting there") {
    leave_stale(path);
    const Fd other(::open(folder.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(::flock(other.get(), LOCK_EX) == 0);
    CHECK(refusal(io, path) == Errc::busy);
    REQUIRE(::flock(other.get(), LOCK_UN) == 0);
    const Exclusive exclusive(io, path);
  }
  SECTION("a file") {
    std::ofstream(path) << "precious";
    CHECK(refusal(io, path) == Errc::bad_request);
    CHECK(std::filesystem::file_size(path) == 8);
  }
  SECTION("a folder") {
    std::filesystem::create_directory(path);
    CHECK(refusal(io, path) == Errc::bad_request);
  }
  SECTION("a link to a stale socket") {
    leave_stale(folder / "other");
    std::filesystem::create_symlink(folder / "other", path);
    CHECK(refusal(io, path) == Errc::bad_request);
    CHECK(exists(folder / "other"));
  }
  SECTION("no folder") { CHECK(refusal(io, folder / "none/s") == std::errc::no_such_file_or_directory); }
  SECTION("no path") { CHECK(refusal(io, "") == Errc::bad_request); }
  SECTION("a path that is too long") {
    CHECK(refusal(io, folder / std::string(108, 'x').c_str()) == Errc::bad_request);
  }
}

TEST_CASE("a socket that somebody else put there is not removed") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  {
    const Exclusive exclusive(io, path);
    std::filesystem::remove(path);
    leave_stale(path);
  }
  CHECK(exists(path));
}

TEST_CASE("clients are told what is at a path") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  const auto error = [&io](const std::string& to) { return connect(io, to).error().code; };
  CHECK(error(path) == Errc::peer_down);
  std::ofstream(folder / "file") << "x";
  CHECK(error(folder / "file") == Errc::peer_down);
  CHECK(error(folder.path) == Errc::peer_down);
  leave_stale(path);
  CHECK(error(path) == Errc::peer_down);
  CHECK(error("") == Errc::bad_request);
  CHECK(error(std::string(200, 'x')) == Errc::bad_request);
}

TEST_CASE("the second client of an exclusive device is told busy, and the first is undisturbed") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  auto first = connect(io, path);
  REQUIRE(first.has_value());
  CHECK(exclusive.last.pid == ::getpid());
  CHECK(exclusive.server->connection());
  CHECK(connect(io, path).error().code == Errc::busy);
  std::optional<Reply> reply;
  (*first)->submit(Reset{}, [&reply](Reply answer) { reply = std::move(answer); });
  run_until(io, [&reply] { return reply.has_value(); });
  CHECK(*reply);
  CHECK(exclusive.gone == 0);
  (*first)->close();
  run_until(io, [&exclusive] { return exclusive.gone == 1; });
  CHECK_FALSE(exclusive.server->connection());
  CHECK(connect(io, path).has_value());
  CHECK(exclusive.accepted == 2);
}

TEST_CASE("a client that looks in and says nothing does not take the device") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  boost::asio::local::stream_protocol::socket silent(io);
  silent.connect(path);
  settle(io);
  const auto client = connect(io, path);
  CHECK(client.has_value());
  CHECK(exclusive.accepted == 1);
  silent.close();
  settle(io);
  CHECK(exclusive.gone == 0);
}

TEST_CASE("a client that says nothing is closed after a while") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  Socket silent(io);
  silent.connect(path);
  bool closed = false;
  silent.async_wait(Socket::wait_read, [&closed](auto) { closed = true; });
  run_until(io, [&closed] { return closed; });
  CHECK(exclusive.accepted == 0);
}

TEST_CASE("a client that comes when the one before has just died is served at once") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  for (int round = 0; round < 20; ++round) {
    // Both ends of the first client's life and the second's VERSION are there before the server looks, at either first.
    Socket first(io), second(io);
    const bool second_first = round % 2 == 0;
    const auto hello = message(Command::version, version("{}"));
    const auto write =
        message(Command::region_write, join(raw(AccessBody{0, 0, 4}), Bytes(4, static_cast<std::byte>(round))), 1,
                flag_no_reply);
    first.connect(path);
    REQUIRE(::send(first.native_handle(), hello.data(), hello.size(), 0) > 0);
    if (second_first) second.connect(path);
    settle(io);
    if (second_first) REQUIRE(::send(second.native_handle(), hello.data(), hello.size(), 0) > 0);
    for (int i = 0; i < 100; ++i) REQUIRE(::send(first.native_handle(), write.data(), write.size(), 0) > 0);
    if (!second_first) {
      second.connect(path);
      REQUIRE(::send(second.native_handle(), hello.data(), hello.size(), 0) > 0);
    }
    first.close();
    Raw heard(io, Fd(::dup(second.native_handle())));
    const auto reply = heard.receive();
    REQUIRE(reply);
    CHECK_FALSE(reply->failed());
    CHECK(exclusive.device->bar0[0] == static_cast<std::byte>(round)); // its last words took effect
    second.close();
    heard.close();
    run_until(io, [&exclusive] { return !exclusive.taken; });
  }
  CHECK(exclusive.accepted == 40);
  CHECK(exclusive.gone == 40);
}

TEST_CASE("clients killed in the middle of their work leave nothing behind") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  std::size_t descriptors = 0;
  for (int round = 0; round < 20; ++round) {
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    const auto child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
      const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
      if (::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) ::_exit(1);
      const auto hello = message(Command::version, version("{}"));
      const auto read = message(Command::region_read, region_read(0, 0, 4096));
      [[maybe_unused]] auto done = ::write(socket, hello.data(), hello.size());
      for (int i = 0; i < 10; ++i) done = ::write(socket, read.data(), read.size());
      done = ::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    const Fd in(ready[0]), out(ready[1]);
    char one;
    REQUIRE(::read(ready[0], &one, 1) == 1);
    run_until(io, [&exclusive, round] { return exclusive.accepted == round + 1; });
    ::kill(child, SIGKILL);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    run_until(io, [&exclusive, round] { return exclusive.gone == round + 1; });
    if (round == 0) descriptors = open_descriptors();
    CHECK(open_descriptors() == descriptors);
  }
}

TEST_CASE("a server that ends closes its clients without calling back") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  auto exclusive = std::make_unique<Exclusive>(io, path);
  const auto client = connect(io, path);
  REQUIRE(client.has_value());
  int lost = 0;
  (*client)->on_lost([&lost] { ++lost; });
  const auto kept = exclusive->server->connection();
  exclusive->server.reset();
  run_until(io, [&lost] { return lost == 1; });
  CHECK(exclusive->gone == 0);
  CHECK(kept.use_count() == 1);
}

TEST_CASE("more clients than a server takes are closed at once, and the others keep working") {
  boost::asio::io_context io;
  const Folder folder;
  const auto path = folder / "s";
  Exclusive exclusive(io, path);
  const auto first = connect(io, path);
  REQUIRE(first.has_value());
  std::vector<Socket> crowd;
  for (int i = 0; i < 130; ++i) {
    crowd.emplace_back(io).connect(path);
    settle(io);
  }
  const auto is_closed = [](Socket& socket) {
    std::byte one;
    return ::recv(socket.native_handle(), &one, 1, MSG_DONTWAIT) == 0;
  };
  CHECK(std::ranges::count_if(crowd, is_closed) == 3); // 128 are kept, the first client among them
  CHECK_FALSE(is_closed(crowd[126]));
  CHECK(is_closed(crowd[127]));
  crowd.erase(crowd.begin()); // whose place is free again
  settle(io);
  auto& next = crowd.emplace_back(io);
  next.connect(path);
  settle(io);
  CHECK_FALSE(is_closed(next));
  bool done = false;
  (*first)->submit(Reset{}, [&done](Reply reply) { done = reply.has_value(); });
  run_until(io, [&done] { return done; });
}
