// The thread that looks at this host's devices.
#include "host_devices.hpp"
#include "catch.hpp"
#include "driver_kernel.hpp"

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

TEST_CASE("what does not go back to its driver when a node stops is told, and the rest goes back") {
  const testing::Tree tree;
  testing::DriverKernel kernel(tree);
  const std::vector<std::string> functions{"0000:06:00.0", "0000:07:00.0"};
  testing::add_function(tree, {.bdf = functions[0]});
  testing::add_function(tree, {.bdf = functions[1], .group = 15});
  boost::asio::io_context io;
  const auto devices = HostDevices::open(io, tree.at("state"), {}, tree.root(), kernel.system());
  REQUIRE(devices);
  for (const auto& function : functions) {
    std::optional<Result<void>> taken;
    (*devices)->take(*parse_bdf(function), true, {}, [&taken](Result<void> result) { taken = std::move(result); });
    io.restart();
    io.run();
    INFO((taken && !*taken ? to_string(taken->error()) : ""));
    REQUIRE((taken && *taken));
  }
  kernel.fault = [&functions](const std::string& file, const std::string& text) {
    return file == "driver/unbind" && text == functions[0]
               ? std::optional(Error{std::make_error_code(std::errc::io_error), "as told"})
               : std::nullopt;
  };
  std::optional<std::vector<Error>> failures;
  (*devices)->give_back_all([&failures](std::vector<Error> told) { failures = std::move(told); });
  io.restart();
  io.run();
  REQUIRE(failures);
  REQUIRE(failures->size() == 1);
  CHECK(to_string(failures->front()).find("as told") != std::string::npos);
  CHECK(kernel.driver(functions[0]) == "vfio-pci");
  CHECK(kernel.driver(functions[1]) == "nvme");
}
