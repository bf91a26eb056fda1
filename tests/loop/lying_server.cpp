// A device whose server says what is not so, against the library: what a program must not believe of it.
#include "catch.hpp"
#include "checks.hpp"
#include "device.hpp"
#include "fd.hpp"
#include "user/version.hpp"
#include "user/wire.hpp"

#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <smartio/device.hpp>
#include <smartio/memory.hpp>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::vfio::user;
using namespace testing;

namespace {

constexpr std::uint64_t page = 4096;
using Bytes = std::vector<std::byte>;

template <class T> Bytes raw(const T& value) {
  const auto bytes = bytes_of(value);
  return {bytes.begin(), bytes.end()};
}

/// Serves one client on a thread of its own, decently but for what the test has set.
class Liar {
public:
  std::atomic<std::uint32_t> regions = 9, flags = 3, vectors = 8;
  std::atomic<std::uint64_t> unmaps_less = 0; ///< bytes that it does not unmap, and says so
  std::atomic<std::uint64_t> bar0 = page;     ///< bytes of it
  std::atomic<std::uint32_t> requests = 0;    ///< whether it has REQ
  std::atomic<int> vendor = 0x36, reads = 0;  ///< what each byte of configuration space is; how often it was read
  std::atomic<bool> goes_at_map = false;      ///< asked about BAR 0, asks for itself back, reads as ones, then answers

  /// Signals REQ.
  void ask_back() {
    const std::scoped_lock lock(mutex_);
    signal_eventfd(request_.get());
  }

  explicit Liar(const char* name) : path_("/tmp/smartio-liar-" + std::string(name) + "-" + std::to_string(::getpid())) {
    ::unlink(path_.c_str());
    listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    REQUIRE(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_.get(), 8) == 0);
    thread_ = std::thread([this] { serve(); });
  }
  ~Liar() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    ::unlink(path_.c_str());
  }
  std::string address() const { return "vfio-user:" + path_; }

private:
  void serve() {
    for (;;) {
      const Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client) return;
      Header header{};
      Bytes payload;
      std::optional<std::pair<Header, Bytes>> late;
      while (take(client.get(), &header, sizeof header)) {
        payload.resize(header.size - sizeof header);
        if (!take(client.get(), payload.data(), payload.size())) break;
        const bool goes = header.command == Command::get_region_info && goes_at_map.exchange(false);
        if (goes) {
          late = {header, answer(header.command, payload)};
          vendor = 0xff;
          ask_back();
          continue;
        }
        give(client.get(), header, answer(header.command, payload));
        if (late) give(client.get(), late->first, late->second);
        late.reset();
      }
    }
  }

  Bytes answer(Command command, const Bytes& payload) {
    switch (command) {
    case Command::version: return encode_version(own_version);
    case Command::get_info: return raw(InfoBody{sizeof(InfoBody), flags, regions, 5});
    case Command::get_region_info: {
      auto body = *load<RegionInfoBody>(payload);
      const bool config = body.index == config_region;
      const std::uint64_t size = config ? page : body.index == 0 ? bar0.load() : 0;
      return raw(RegionInfoBody{sizeof body, size != 0 ? 3U : 0U, body.index, 0, size, 0});
    }
    case Command::get_irq_info: {
      const auto index = load<IrqInfoBody>(payload)->index;
      const auto count = index == msix ? vectors.load() : index == req ? requests.load() : 0U;
      return raw(IrqInfoBody{sizeof(IrqInfoBody), irq_flag_eventfd, index, count});
    }
    case Command::region_read: {
      ++reads;
      const auto body = *load<AccessBody>(payload);
      auto data = raw(body);
      data.resize(sizeof body + body.count, static_cast<std::byte>(vendor.load()));
      return data;
    }
    case Command::dma_unmap: {
      auto body = *load<DmaUnmapBody>(payload);
      body.size -= std::min<std::uint64_t>(body.size, unmaps_less);
      return raw(body);
    }
    default: return {};
    }
  }

  /// Of the descriptors that come the last is kept, for REQ: this device reaches no memory.
  bool take(int socket, void* into, std::size_t bytes) {
    for (std::size_t done = 0; done < bytes;) {
      iovec part{static_cast<std::byte*>(into) + done, bytes - done};
      alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      const auto got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
      if (got <= 0) return false;
      if (const auto* header = CMSG_FIRSTHDR(&message)) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
        const std::scoped_lock lock(mutex_);
        request_ = Fd(fd);
      }
      done += static_cast<std::size_t>(got);
    }
    return true;
  }
  static void give(int socket, Header header, const Bytes& payload) {
    header.size = static_cast<std::uint32_t>(sizeof header + payload.size());
    header.flags = type_reply;
    Bytes message = raw(header);
    message.insert(message.end(), payload.begin(), payload.end());
    [[maybe_unused]] const auto sent = ::send(socket, message.data(), message.size(), MSG_NOSIGNAL);
  }

  std::string path_;
  std::mutex mutex_;
  Fd listener_, request_;
  std::thread thread_;
};

unsigned memories() { return mappings_named("smartio-memory"); }

} // namespace

TEST_CASE("memory of which a server unmaps less than asked is kept, and so is its address") {
  for (const auto less : {std::uint64_t{0}, std::uint64_t{1}, page, 2 * page}) {
    INFO(less);
    Liar server("unmap");
    const auto device = open_device(server.address());
    REQUIRE(device);
    const unsigned before = memories();
    {
      const auto memory = Memory::allocate(2 * page);
      REQUIRE(memory);
      const auto window = device->map_dma_at(Iova{page}, *memory, Access::write);
      REQUIRE(window);
      server.unmaps_less = less;
    }
    CHECK(memories() == before + (less == 0 ? 0 : 1));
    const auto other = Memory::allocate(page);
    REQUIRE(other);
    CHECK(device->map_dma_at(Iova{page}, *other, Access::write).has_value() == (less == 0));
  }
}

TEST_CASE("a block of registers that is not as large as it was when the device was opened is refused") {
  Liar server("grows");
  const auto device = open_device(server.address());
  REQUIRE(device);
  CHECK(device->map_bar(0));
  for (const auto size : {2 * page, page / 2}) {
    server.bar0 = size;
    CHECK(fails_with(device->map_bar(0), Errc::bad_request));
  }
}

TEST_CASE("a server that claims what no device has, or lacks what each has, is refused") {
  struct Row {
    const char* what;
    std::uint32_t regions, flags, vectors;
    bool good;
  };
  for (const auto& row : {Row{"all", 9, 3, 8, true}, Row{"as few regions as a device may have", 8, 3, 8, true},
                          Row{"no configuration space", 7, 3, 8, false}, Row{"no region", 0, 3, 8, false},
                          Row{"regions without end", UINT32_MAX, 3, 8, true}, Row{"no PCI device", 9, 1, 8, false},
                          Row{"no reset", 9, 2, 8, true}, Row{"all vectors that there can be", 9, 3, 2048, true},
                          Row{"one more", 9, 3, 2049, false}, Row{"vectors without end", 9, 3, UINT32_MAX, false},
                          Row{"none", 9, 3, 0, true}}) {
    INFO(row.what);
    Liar server("claims");
    server.regions = row.regions;
    server.flags = row.flags;
    server.vectors = row.vectors;
    const auto device = open_device(server.address());
    CHECK(device.has_value() == row.good);
    if (!device) CHECK(device.error().code == make_error_code(Errc::bad_request));
  }
}

TEST_CASE("a device that its server asks back, and that answers as ever, is not given up; one that reads as ones is") {
  Liar server("asks-back");
  server.requests = 1;
  const auto device = open_device(server.address());
  REQUIRE(device);
  server.reads = 0; // it was looked at when it was opened
  for (int i = 1; i <= 3; ++i) {
    server.ask_back();
    for (int waits = 0; server.reads < i && waits < 500; ++waits)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    CHECK(server.reads == i); // the device is looked at
  }
  server.reads = 0;
  CHECK(device->read_config(0, 2).value() == 0x3636); // after the answers, so they are known
  CHECK_FALSE(readable(device->revoked_fd()));
  server.vendor = 0xff;
  server.ask_back();
  CHECK(readable(device->revoked_fd(), 5000));
  CHECK(fails_with(device->read_config(0, 2), Errc::revoked));
}

TEST_CASE("registers whose mapping was under way when the device was taken back are not mapped") {
  Liar server("goes");
  server.requests = 1;
  const auto device = open_device(server.address());
  REQUIRE(device);
  server.goes_at_map = true;
  CHECK(fails_with(device->map_bar(0), Errc::revoked));
}
