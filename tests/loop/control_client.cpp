// The blocking client of the control socket against a daemon that misbehaves in time: late, slow, gone.
#include "control_client.hpp"

#include "catch.hpp"

#include <filesystem>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

std::string frame(const json& message) {
  const std::string payload = message.dump();
  const auto length = static_cast<std::uint32_t>(payload.size() + 1);
  std::string bytes(5, '\0');
  for (unsigned i = 0; i < 4; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xffU);
  return bytes + payload;
}

/// A listening control socket in a directory of its own.
class Daemon {
public:
  Daemon() {
    REQUIRE(::mkdtemp(directory_.data()) != nullptr);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (directory_ + "/smartiod.sock").copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_.get(), 4) == 0);
  }
  Daemon(const Daemon&) = delete;
  ~Daemon() { std::filesystem::remove_all(directory_); }

  ControlClient connect(std::chrono::milliseconds timeout) {
    auto client = ControlClient::connect(directory_, timeout);
    REQUIRE(client);
    accepted_.reset(::accept(listener_.get(), nullptr, nullptr));
    return std::move(*client);
  }
  void send(const std::string& bytes) const {
    REQUIRE(::send(accepted_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  void hang_up() { accepted_.reset(); }
  int fd() const { return accepted_.get(); }

private:
  std::string directory_ = "/tmp/smartio.XXXXXX";
  Fd listener_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  Fd accepted_;
};

const std::string done = frame({{"id", 1}, {"result", {{"node", 8}}}});
const std::string event = frame({{"event", {{"seq", 1}}}});

} // namespace

TEST_CASE("a daemon that does not answer is given up in time, and the connection with it") {
  Daemon daemon;
  auto client = daemon.connect(50ms);
  CHECK(client.call("list", json::object()).error().code == Errc::timed_out);
  CHECK(client.fd() == -1);
  CHECK(client.call("list", json::object()).error().code == Errc::peer_down);
}

TEST_CASE("an answer that trickles in is given up in time") {
  Daemon daemon;
  auto client = daemon.connect(100ms);
  std::jthread trickle([fd = daemon.fd()](const std::stop_token& stop) {
    const std::string endless = frame({{"id", 1}, {"result", {{"fill", std::string(100000, 'x')}}}});
    for (std::size_t i = 0; i < endless.size() && !stop.stop_requested(); ++i) {
      if (::send(fd, &endless[i], 1, MSG_NOSIGNAL) != 1) return;
      std::this_thread::sleep_for(1ms);
    }
  });
  const auto start = std::chrono::steady_clock::now();
  CHECK(client.call("list", json::object()).error().code == Errc::timed_out);
  CHECK(std::chrono::steady_clock::now() - start < 10s);
}

TEST_CASE("what no smartiod says ends the connection at once") {
  Daemon daemon;
  auto client = daemon.connect(10s);
  const auto start = std::chrono::steady_clock::now();
  SECTION("a reply larger than any") { daemon.send(std::string{'\x01', '\x00', '\x00', '\x01', '\x00'}); } // 16 MiB + 1
  SECTION("a reply to something else") { daemon.send(frame({{"id", 2}, {"result", json::object()}})); }
  SECTION("a reply without a number") { daemon.send(frame({{"result", json::object()}})); }
  CHECK(client.call("list", json::object()).error().code == std::errc::bad_message);
  CHECK(client.fd() == -1);
  CHECK(std::chrono::steady_clock::now() - start < 5s);
}

TEST_CASE("only so many events are kept while a reply is waited for") {
  Daemon daemon;
  auto client = daemon.connect(60s);
  const std::size_t count = GENERATE(4096U, 4097U);
  std::jthread sender([&daemon, count] {
    std::string all;
    for (std::size_t i = 0; i < count; ++i) all += event;
    daemon.send(all + done);
  });
  CHECK(client.call("list", json::object()).has_value() == (count == 4096));
}

TEST_CASE("events that overtake a reply are kept in order") {
  Daemon daemon;
  auto client = daemon.connect(10s);
  daemon.send(event + frame({{"event", {{"seq", 2}}}}) + done + frame({{"event", {{"seq", 3}}}}));
  const auto result = client.call("monitor", json::object());
  REQUIRE(result);
  CHECK((*result)["node"] == 8);
  for (int seq = 1; seq <= 3; ++seq) {
    json told;
    REQUIRE(client.next_event(told).value_or(false));
    CHECK(told["seq"] == seq);
  }
}

TEST_CASE("waiting in vain for an event loses nothing") {
  Daemon daemon;
  auto client = daemon.connect(10s);
  json told;
  CHECK(client.next_event(told, 10ms).error().code == Errc::timed_out);
  daemon.send(event);
  CHECK(client.next_event(told, 10s).value_or(false));
}

TEST_CASE("the end of the daemon between events is an end, within one an error") {
  Daemon daemon;
  json told;
  auto first = daemon.connect(10s);
  daemon.hang_up();
  const auto ended = first.next_event(told);
  REQUIRE(ended);
  CHECK_FALSE(*ended);

  auto second = daemon.connect(10s);
  daemon.send(event.substr(0, event.size() - 1));
  daemon.hang_up();
  CHECK(second.next_event(told).error().code == Errc::peer_down);
}

TEST_CASE("another thread ends a wait for events by shutting the socket down") {
  Daemon daemon;
  auto client = daemon.connect(10s);
  std::jthread ender([fd = client.fd()] { ::shutdown(fd, SHUT_RDWR); });
  json told;
  const auto ended = client.next_event(told);
  REQUIRE(ended);
  CHECK_FALSE(*ended);
}

TEST_CASE("a request that is too long is refused and nothing is sent") {
  Daemon daemon;
  auto client = daemon.connect(10s);
  const json too_long{{"option", std::string(1 << 20, 'x')}};
  CHECK(client.call("config", too_long).error().code == Errc::bad_request);
  daemon.send(frame({{"id", 2}, {"result", json::object()}}));
  CHECK(client.call("list", json::object()));
}

TEST_CASE("no daemon and a path no socket can have are told apart") {
  Daemon daemon;
  CHECK(ControlClient::connect("/nonexistent", 1s).error().code == Errc::peer_down);
  CHECK(ControlClient::connect("/" + std::string(200, 'x'), 1s).error().code == Errc::bad_request);
  CHECK(ControlClient::connect("", 1s).error().code == Errc::bad_request);
}
