// The thread that looks at this host's devices.
#include "host_devices.hpp"
#include "catch.hpp"

#include <csignal>
#include <filesystem>
#include <fstream>

using namespace smartio;

namespace {

/// How many threads of this process take the signal.
unsigned takers(int signal) {
  unsigned count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("SigBlk:")) count += (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) == 0;
  }
  return count;
}

} // namespace

TEST_CASE("signals of the program are for its own threads") {
  boost::asio::io_context io;
  const auto before = takers(SIGTERM);
  const auto devices = HostDevices::open(io, "", {});
  REQUIRE(devices);
  CHECK(takers(SIGTERM) == before);
}
