// A program's own calls of its node: from callbacks, past their time, and over a daemon that goes and comes back.
#include "catch.hpp"
#include "checks.hpp"
#include "control_client.hpp"
#include "file.hpp"
#include "own_nodes.hpp"
#include "shell.hpp"
#include "state_file.hpp"

#include <future>
#include <smartio/node.hpp>

using namespace smartio;
using testing::eventually;
using testing::Place;
using namespace std::chrono_literals;

namespace {

/// The host's smartiod, as far as its control socket goes.
struct Daemon {
  explicit Daemon(const std::string& run_dir)
      : shell(Shell::open({.node = NodeId{8}, .run_dir = run_dir}).value()), thread([this] { shell->run(); }) {}
  ~Daemon() {
    shell->stop();
    thread.join();
  }
  std::unique_ptr<Shell> shell;
  std::thread thread;
};

template <class T> bool comes(std::future<T>& future) { return future.wait_for(20s) == std::future_status::ready; }

} // namespace

TEST_CASE("a call from the log of a started node is refused") {
  std::atomic<const Node*> self = nullptr;
  std::promise<Result<std::string>> answer;
  const auto node = Node::start({.node = NodeId{8},
                                 .log =
                                     [&](int, std::string_view) {
                                       if (const auto* called = self.exchange(nullptr))
                                         answer.set_value(called->status_json());
                                     }})
                        .value();
  self = &node;
  CHECK(node.call("config", R"({"option":"ntb","value":"vfio-user:/nowhere"})"));
  auto answered = answer.get_future();
  REQUIRE(comes(answered));
  CHECK(testing::fails_with(answered.get(), Errc::wrong_state));
}

TEST_CASE("a log that throws ends nothing, and is called again") {
  const Place place;
  std::atomic<unsigned> lines = 0;
  const auto node = Node::start({.node = NodeId{8},
                                 .run_dir = place.path,
                                 .log =
                                     [&lines](int, std::string_view) {
                                       ++lines;
                                       throw std::runtime_error("the log is full");
                                     }})
                        .value();
  for (const char* bridge : {"vfio-user:/nowhere", "vfio-user:/nowhere/else"}) {
    const unsigned before = lines;
    CHECK(node.call("config", fmt::format(R"({{"option":"ntb","value":"{}"}})", bridge)));
    CHECK(eventually([&lines, before] { return lines > before; }));
  }
  CHECK(node.devices());
  CHECK(node.stop());
}

TEST_CASE("a log that throws before the node runs does not keep it from starting") {
  const Place place;
  auto boot = read_file("/proc/sys/kernel/random/boot_id").value().value();
  boot.pop_back();
  const auto entry =
      R"({"bdf":"ffff:ff:1f.7","driver":"nvme","driver_override":null,"step":"take-done"})"; // it is gone
  REQUIRE(replace_file(place.path + "/journal.json",
                       fmt::format(R"({{"schema_version":1,"boot":"{}","functions":[{}]}})", boot, entry)));
  bool logged = false;
  const auto node = Node::start({.node = NodeId{8}, .state_dir = place.path, .log = [&logged](int, std::string_view) {
                                   logged = true;
                                   throw 5;
                                 }});
  CHECK(node);
  CHECK(logged);
}

TEST_CASE("the last copy of a started node may be destroyed in its own callback") {
  const Place place;
  std::unique_ptr<Node> node;
  std::promise<void> gone;
  const auto log = [&](int, std::string_view) {
    if (!std::exchange(node, nullptr)) return;
    gone.set_value();
  };
  auto started = Node::start({.node = NodeId{8}, .run_dir = place.path, .log = log}).value();
  node = std::make_unique<Node>(std::move(started));
  auto other = ControlClient::connect(place.path, 20s).value();
  (void)other.call("config", {{"option", "ntb"}, {"value", "vfio-user:/nowhere"}}); // it may end before it answers
  auto ended = gone.get_future();
  REQUIRE(comes(ended));
  CHECK(eventually([&place] { return !std::filesystem::exists(place.path + "/smartiod.sock"); }));
}

TEST_CASE("a call of a started node ends with its timeout, whatever it waits for") {
  boost::asio::io_context io;
  const boost::asio::ip::tcp::acceptor silent(io, {boost::asio::ip::address_v4::loopback(), 0});
  const auto node = Node::start({.node = NodeId{8}, .timeout = 200ms}).value();
  const auto before = std::chrono::steady_clock::now();
  const auto address = "127.0.0.1:" + std::to_string(silent.local_endpoint().port());
  CHECK(testing::fails_with(node.connect(NodeId{4}, address), Errc::timed_out));
  CHECK(std::chrono::steady_clock::now() - before < 2s);
}

TEST_CASE("a started node that is stopped has ended when that returns, and what is called afterwards says so") {
  const Place place;
  const auto node = Node::start({.node = NodeId{8}, .run_dir = place.path, .timeout = 60s}).value();
  const auto socket = place.path + "/smartiod.sock";
  REQUIRE(std::filesystem::exists(socket));
  auto other = std::async(std::launch::async, [&node] { return node.stop(); });
  CHECK(node.stop());
  CHECK(other.get());
  CHECK_FALSE(std::filesystem::exists(socket));
  const auto before = std::chrono::steady_clock::now();
  CHECK(testing::fails_with(node.devices(), Errc::peer_down));
  CHECK(testing::fails_with(node.events(), Errc::peer_down));
  CHECK(std::chrono::steady_clock::now() - before < 30s); // at once, not after the timeout
  CHECK(node.stop());
}

TEST_CASE("a node is not stopped from within a callback of its own, and goes on") {
  std::promise<Result<void>> stopped;
  std::atomic<const Node*> self = nullptr;
  const auto node = Node::start({.node = NodeId{8},
                                 .log =
                                     [&](int, std::string_view) {
                                       if (const auto* called = self.exchange(nullptr))
                                         stopped.set_value(called->stop());
                                     }})
                        .value();
  self = &node;
  CHECK(node.set_option("ntb", "vfio-user:/nowhere"));
  auto answer = stopped.get_future();
  REQUIRE(comes(answer));
  CHECK(testing::fails_with(answer.get(), Errc::wrong_state));
  CHECK(node.devices().value().empty());
}

TEST_CASE("a device is not given back from within a callback of its node, and stays usable") {
  const testing::SimulatedDisk disk;
  const Place place;
  std::atomic<const Device*> lent = nullptr;
  std::promise<Result<void>> answer;
  const auto node = Node::start({.node = NodeId{8},
                                 .run_dir = place.path,
                                 .log =
                                     [&](int, std::string_view) {
                                       if (const auto* device = lent.exchange(nullptr))
                                         answer.set_value(device->give_back());
                                     }})
                        .value();
  const auto id = node.add(disk.address()).value();
  REQUIRE(node.make_available(id));
  const auto device = node.borrow(id).value();
  lent = &device;
  REQUIRE(node.set_option("ntb", "vfio-user:/nowhere"));
  auto answered = answer.get_future();
  REQUIRE(comes(answered));
  CHECK(testing::fails_with(answered.get(), Errc::wrong_state));
  CHECK(device.read_config(0, 2));
  CHECK(device.give_back());
}

TEST_CASE("an attached node goes on with the daemon that was started anew") {
  const Place place;
  auto daemon = std::make_unique<Daemon>(place.path);
  const auto node = Node::attach(place.path).value();
  daemon.reset();
  CHECK(testing::fails_with(node.status_json(), Errc::peer_down));
  daemon = std::make_unique<Daemon>(place.path);
  CHECK(node.status_json());
}

TEST_CASE("what a program executes inherits no socket of its node") {
  const Place place;
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor probe(io, {boost::asio::ip::address_v4::loopback(), 0});
  const auto port = probe.local_endpoint().port();
  probe.close();
  const auto address = "127.0.0.1:" + std::to_string(port);
  const auto borrower = Node::start({.node = NodeId{4}, .listen = address, .run_dir = place.path}).value();
  const auto lender = Node::start({.node = NodeId{8}}).value();
  REQUIRE(lender.connect(NodeId{4}, address)); // a socket that listens, one that dialled, one that was accepted
  const auto attached = Node::attach(place.path).value();
  std::string inherited;
  const std::unique_ptr<FILE, int (*)(FILE*)> list(::popen("ls -l /proc/self/fd", "r"), ::pclose);
  for (std::array<char, 256> line; std::fgets(line.data(), line.size(), list.get()) != nullptr;)
    inherited += line.data();
  CAPTURE(inherited);
  CHECK(inherited.find("pipe:") != std::string::npos);
  CHECK(inherited.find("socket:") == std::string::npos);
}

TEST_CASE("whoever waits for the state file has the answer when the node stops") {
  const Place place;
  boost::asio::io_context io;
  std::string all;
  StateFile file(
      io, place.path + "/state.json", [&all] { return all; }, [](const Result<void>&) {});
  unsigned answered = 0;
  for (const char* line : {"first\n", "second\n", "third\n"}) {
    all += line;
    file.save(line);
    file.when_saved([&answered] { ++answered; });
  }
  CHECK(answered == 0);
  file.finish();
  CHECK(answered == 3);
  CHECK(read_file(place.path + "/state.json").value() == all);
  io.run(); // what the disk said meanwhile is nobody's any more
  CHECK(answered == 3);
}
