// A device that is taken away while it is in use: by its lender (ERR), by the end of the connection, by the death of
// its server, by silence.
#include "catch.hpp"
#include "checks.hpp"
#include "device_in_use.hpp"

#include <csignal>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <smartio/device.hpp>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

namespace {

std::set<std::string> threads() {
  std::set<std::string> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) found.insert(task.path());
  return found;
}

std::uint64_t context_switches(const std::string& thread) {
  std::ifstream status(thread + "/status");
  std::uint64_t sum = 0;
  for (std::string line; std::getline(status, line);)
    if (const auto at = line.find("ctxt_switches:"); at != std::string::npos) sum += std::stoull(line.substr(at + 14));
  return sum;
}

/// SigBlk of /proc/PID/task/TID/status: bit 0 is signal 1.
std::uint64_t blocked_signals(const std::string& thread) {
  std::ifstream status(thread + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("SigBlk:")) return std::stoull(line.substr(7), nullptr, 16);
  return 0;
}

} // namespace

TEST_CASE("taken back by its lender: registers become ones, the window is unmapped, the connection is closed") {
  TestServer server("err");
  const unsigned before = memories();
  {
    InUse use(server.path());
    server.with([](TestDevice& model) { model.signal_error(); });
    CHECK(server.wait_until_left(500ms));
    check_taken_back(use);
    server.with([](TestDevice& model) {
      CHECK(model.unmap_alls == 1);
      CHECK(model.bar0.bytes()[page] == std::byte{7});
      CHECK(model.bar0.bytes()[page + 4] == std::byte{0});
    });
  }
  CHECK(memories() == before); // the server confirmed that the device no longer reaches it
}

TEST_CASE("taken back by a lender that does not answer: the program lets go in time, and keeps the memory") {
  TestServer server("err-silent");
  const unsigned before = memories();
  {
    InUse use(server.path());
    ignore_unmaps(server);
    server.with([](TestDevice& model) { model.signal_error(); });
    CHECK(server.wait_until_left(500ms));
    check_taken_back(use);
  }
  CHECK(memories() == before + 1);
}

TEST_CASE("a device that was taken back is asked for nothing more, also while its connection is still there") {
  TestServer server("err-grace");
  InUse use(server.path());
  ignore_unmaps(server); // which keeps the connection for a while
  server.with([](TestDevice& model) { model.signal_error(); });
  REQUIRE(readable(use.device.revoked_fd(), 4000));
  CHECK(fails_with(use.device.reset(), Errc::revoked));
  server.with([](TestDevice& model) { CHECK(model.resets == 0); });
}

TEST_CASE("a program that lets go at once, before the lender has answered, waits for that and keeps nothing") {
  TestServer server("err-late");
  const unsigned before = memories();
  {
    InUse use(server.path());
    ignore_unmaps(server);
    server.with([](TestDevice& model) { model.signal_error(); });
    REQUIRE(readable(use.device.revoked_fd(), 4000));
    const std::jthread lender([&server] {
      std::this_thread::sleep_for(20ms); // a lender takes its time; the window is being destroyed meanwhile
      server.with([](TestDevice& model) { model.confirm_ignored(); });
    });
    const auto window = std::move(use.window);
  }
  CHECK(server.wait_until_left(500ms));
  CHECK(memories() == before);
}

TEST_CASE("a lost connection takes the device back, and memory a device may still write is kept") {
  TestServer server("lost");
  const unsigned before = memories();
  {
    InUse use(server.path());
    server.drop_client();
    check_taken_back(use);
  }
  CHECK(memories() == before + 1);
  CHECK(open_device(server.address())); // the next client is served
}

TEST_CASE("the death of the device's server takes the device back") {
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const Fd in(ready[0]), out(ready[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    TestServer server("killed");
    const std::string name = server.path() + "\n";
    [[maybe_unused]] const auto told = ::write(out.get(), name.data(), name.size());
    for (;;) ::pause();
  }
  char name[200] = {};
  REQUIRE(::read(in.get(), name, sizeof name - 1) > 1);
  const std::string socket(name, std::strlen(name) - 1);
  InUse use(socket);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  check_taken_back(use);
  CHECK(fails_with(open_device("vfio-user:" + socket), Errc::peer_down));
  ::unlink(socket.c_str());
}

TEST_CASE("a call under way ends when the device is taken back") {
  TestServer server("under-way");
  InUse use(server.path());
  std::promise<void> asked;
  server.with([&asked](TestDevice& model) {
    model.ignore = [&asked](const vfio::Request& request) {
      if (!std::get_if<vfio::Reset>(&request)) return false;
      asked.set_value();
      return true;
    };
  });
  std::thread lender([&asked, &server] {
    asked.get_future().wait();
    server.drop_client();
  });
  const auto began = std::chrono::steady_clock::now();
  CHECK(fails_with(use.device.reset(), Errc::revoked));
  CHECK(std::chrono::steady_clock::now() - began < 3s);
  lender.join();
  check_taken_back(use);
}

TEST_CASE("a server that does not answer is given up after the timeout, and its device with it") {
  TestServer server("silence");
  InUse use(server.path(), 300ms);
  server.with([](TestDevice& model) {
    model.ignore = [](const vfio::Request& request) { return std::get_if<vfio::Reset>(&request) != nullptr; };
  });
  CHECK(fails_with(use.device.reset(), Errc::timed_out));
  check_taken_back(use);
}

TEST_CASE("the thread of a device takes none of the program's signals, and leaves the program's mask alone") {
  TestServer server("signals");
  sigset_t before, after;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const auto others = threads();
  InUse use(server.path());
  ::pthread_sigmask(SIG_SETMASK, nullptr, &after);
  auto ours = threads();
  for (const auto& thread : others) ours.erase(thread);
  REQUIRE(ours.size() == 1);
  const auto blocked = blocked_signals(*ours.begin());
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGALRM}) {
    CHECK((blocked >> (signal - 1) & 1) == 1);
    CHECK(sigismember(&after, signal) == sigismember(&before, signal));
  }
}

TEST_CASE("a device that nothing happens to wakes nobody up") {
  TestServer server("idle");
  const auto others = threads();
  InUse use(server.path());
  auto ours = threads();
  for (const auto& thread : others) ours.erase(thread);
  REQUIRE(ours.size() == 1);
  std::this_thread::sleep_for(50ms);
  const auto before = context_switches(*ours.begin());
  std::this_thread::sleep_for(300ms);
  for (std::uint32_t i = 0; i < 100000; ++i) word(use.bar, page) = i;
  CHECK(before > 0);
  CHECK(context_switches(*ours.begin()) == before);
}
