// Addresses of nodes, as people and configurations give them.
#include "addresses.hpp"
#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;

TEST_CASE("a node is dialled by a name or an address, with a port") {
  for (const auto* good : {"h:1", "127.0.0.1:65535", "[::1]:7808"}) CHECK(check_endpoint(good));
  for (const auto* bad : {"", "h", ":1", "h:", "h:0", "h:65536", "h:x"}) CHECK_FALSE(check_endpoint(bad));
}

TEST_CASE("a node listens on an address of its own, and on any port if it is to") {
  for (const auto* good : {"127.0.0.1:0", "0.0.0.0:65535", "[::1]:7808", "[fe80::1%eth0]:1", "localhost:7808"}) {
    INFO(good);
    CHECK(check_listen(good));
  }
  for (const auto* bad : {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", ":7808", "h:1", "[h]:1",
                          "127.0.0.256:1", "[::1:7808"}) {
    INFO(bad);
    const auto refused = check_listen(bad);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::bad_request);
    CHECK(refused.error().context.find("is not an address to listen on") != std::string::npos);
  }
}

TEST_CASE("an endpoint in parts") {
  CHECK(split_endpoint("h:1") == std::pair<std::string, std::string>("h", "1"));
  CHECK(split_endpoint("[::1]:1") == std::pair<std::string, std::string>("::1", "1"));
  CHECK(split_endpoint("h") == std::pair<std::string, std::string>("h", ""));
}
