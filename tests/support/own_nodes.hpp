// Nodes of the public interface in this process, with directories of their own.
#pragma once

#include "catch.hpp"
#include "simulated_disk.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <filesystem>
#include <memory>
#include <smartio/node.hpp>

namespace testing {

struct Place {
  Place() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  Place(const Place&) = delete;
  ~Place() { std::filesystem::remove_all(path); }
  std::string path = std::filesystem::temp_directory_path() / "node.XXXXXX";
};

template <class Condition> bool eventually(Condition holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
  while (std::chrono::steady_clock::now() < end) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }
  return false;
}

inline smartio::Node start_node(unsigned number, const Place& place, const std::string& listen = {}) {
  return smartio::Node::start(
             {.node = static_cast<smartio::NodeId>(number), .listen = listen, .run_dir = place.path, .state_dir = {}})
      .value();
}

/// Node 8 lends a disk; node 4 may borrow it.
struct TwoNodes {
  TwoNodes() {
    REQUIRE(lender.connect(smartio::NodeId{4}, address));
    id = lender.add(disk->address()).value();
    REQUIRE(lender.make_available(id));
    REQUIRE(eventually([this] {
      const auto devices = borrower.devices().value();
      return devices.size() == 1 && devices.front().state == smartio::DeviceState::available;
    }));
  }
  std::unique_ptr<SimulatedDisk> disk = std::make_unique<SimulatedDisk>();
  Place at_lender{}, at_borrower{};
  std::string address = "127.0.0.1:" + std::to_string(free_port());
  smartio::Node lender = start_node(8, at_lender), borrower = start_node(4, at_borrower, address);
  smartio::DeviceId id{};

  static unsigned free_port() {
    boost::asio::io_context io;
    const boost::asio::ip::tcp::acceptor any(io, {boost::asio::ip::address_v4::loopback(), 0});
    return any.local_endpoint().port();
  }
};

} // namespace testing
