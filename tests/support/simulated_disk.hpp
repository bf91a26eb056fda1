// `smartio_sim nvme` within this process, on a thread of its own: a disk in memory, to be opened by its address, and
// faults to inject into it.
#pragma once

#include "catch.hpp"
#include "nvme/file_store.hpp"
#include "nvme_service.hpp"

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>
#include <sys/mman.h>
#include <thread>

namespace testing {

class SimulatedDisk {
public:
  explicit SimulatedDisk(const smartio::sim::nvme::Shape& shape = {}, std::uint32_t namespaces = 1)
      : service_(store(), smartio::sim::nvme::make_identity("a disk", disk_bytes / 512, 512, namespaces), shape) {
    REQUIRE(service_.listen(path("disk")));
    REQUIRE(service_.listen_for_faults(path("faults")));
    thread_ = std::thread([this] { service_.run(); });
  }
  ~SimulatedDisk() {
    service_.stop();
    thread_.join();
    std::filesystem::remove_all(place_);
  }

  std::string address() const { return "vfio-user:" + path("disk"); }

  /// Returns when the fault is in force. From any thread.
  void inject(const std::string& line) const {
    boost::asio::io_context io;
    boost::asio::local::stream_protocol::socket socket(io);
    socket.connect(path("faults"));
    boost::asio::write(socket, boost::asio::buffer(line + "\n"));
    std::string answer(3, ' ');
    boost::asio::read(socket, boost::asio::buffer(answer));
    if (answer != "ok\n") std::abort(); // assertions stand in a test's own thread only
  }

private:
  static constexpr std::uint64_t disk_bytes = 16 << 20;
  static std::unique_ptr<smartio::sim::nvme::Store> store() {
    return std::make_unique<smartio::sim::nvme::FileStore>(
        smartio::sim::nvme::FileStore::from_fd(smartio::make_memfd("disk", disk_bytes).value(), 512).value());
  }
  static std::string make_place() {
    std::string name = std::filesystem::temp_directory_path() / "simulated.XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    return name;
  }
  std::string path(const char* name) const { return place_ + "/" + name; }

  std::string place_ = make_place();
  smartio::sim::NvmeService service_;
  std::thread thread_;
};

} // namespace testing
