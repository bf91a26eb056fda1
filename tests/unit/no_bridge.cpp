// A build without bridges (the option `bridge`) says so, before a bridge is taken from its driver.
#include "bridge.hpp"
#include "catch.hpp"

using namespace smartio;

TEST_CASE("no bridge can be opened in a build without them") {
  const auto can = fabric::can_open_bridges();
  REQUIRE_FALSE(can);
  CHECK(can.error().code == Errc::wrong_state);
  boost::asio::io_context io;
  std::optional<Error> heard;
  fabric::open_bridge(
      io, nullptr, NodeId{8}, std::chrono::seconds{1}, [] {},
      [&heard](Result<std::shared_ptr<fabric::Path>> path) { heard = path.error(); });
  REQUIRE(heard);
  CHECK(to_string(*heard) == to_string(can.error()));
}
