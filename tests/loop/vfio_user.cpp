// Our client and our server with each other.
#include "catch.hpp"
#include "small_device.hpp"
#include "user/client.hpp"
#include "user/server.hpp"
#include "vfio_user_raw.hpp"

#include <boost/asio/local/connect_pair.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::test;
using user::Client;
using user::Connection;
using Socket = boost::asio::local::stream_protocol::socket;

namespace {

constexpr std::chrono::milliseconds patience{60000};

/// A device, served, and a client that has greeted.
struct Pair {
  boost::asio::io_context io;
  std::shared_ptr<SmallDevice> device = std::make_shared<SmallDevice>();
  user::Counters counters;
  int closed = 0;
  std::shared_ptr<Connection> connection;
  std::shared_ptr<Client> client;

  explicit Pair(std::chrono::milliseconds timeout = patience, std::size_t bar0_size = 8192) {
    device->bar0.resize(bar0_size);
    Socket server_end(io), client_end(io);
    boost::asio::local::connect_pair(server_end, client_end);
    connection = Connection::start(std::move(server_end), device, counters, [this] { ++closed; });
    Client::start(std::move(client_end), timeout, [this](auto opened) {
      REQUIRE(opened);
      client = std::move(*opened);
    });
    run_until(io, [this] { return client != nullptr; });
  }

  Reply ask(Request request) {
    std::optional<Reply> reply;
    client->submit(std::move(request), [&reply](Reply answer) { reply = std::move(answer); });
    run_until(io, [&reply] { return reply.has_value(); });
    return std::move(*reply);
  }
  template <class T> T answer(Request request) {
    auto reply = ask(std::move(request));
    REQUIRE(reply);
    REQUIRE(std::holds_alternative<T>(*reply));
    return std::get<T>(std::move(*reply));
  }
};

std::vector<Fd> eventfds(std::size_t count) {
  std::vector<Fd> fds;
  while (fds.size() < count) fds.push_back(make_eventfd().value());
  return fds;
}

Bytes pattern(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

} // namespace

TEST_CASE("every request reaches the device and comes back answered") {
  Pair pair;
  CHECK(pair.answer<Info>(GetInfo{}).regions == 9);
  CHECK(pair.answer<IrqInfo>(GetIrqInfo{msix}).count == 65);
  pair.answer<Done>(RegionWrite{0, 16, pattern(8)});
  CHECK(pair.answer<Data>(RegionRead{0, 16, 8}).bytes == pattern(8));
  pair.answer<Done>(DmaMap{Iova{0}, 4096, Access::read_write, make_memfd("window", 4096).value()});
  REQUIRE(pair.device->windows.size() == 1);
  CHECK(pair.device->windows[0].fd);
  CHECK(pair.answer<Unmapped>(DmaUnmap{Iova{0}, 4096}).size == 4096);
  CHECK(pair.device->windows.empty());
  pair.answer<Done>(Reset{});
  CHECK(pair.counters.errors == 0);
}

TEST_CASE("a region's descriptor reaches the client") {
  Pair pair;
  const auto info = pair.answer<RegionInfo>(GetRegionInfo{0});
  CHECK(info.areas == std::vector<RegionArea>{{4096, 4096}});
  CHECK(info.flags == (region_flag_read | region_flag_write | region_flag_mmap));
  CHECK(info.fd);
  CHECK(pair.answer<RegionInfo>(GetRegionInfo{3}).size == 0);
}

TEST_CASE("more interrupts than descriptors fit a message arrive in order") {
  Pair pair;
  pair.answer<Done>(SetIrqs{0x24, msix, 0, 65, {}, eventfds(65)});
  REQUIRE(pair.device->irqs.size() == 5);
  std::uint32_t next = 0;
  for (const auto& set : pair.device->irqs) {
    CHECK(set.start == next);
    CHECK(set.eventfds.size() == set.count);
    next += set.count;
  }
  CHECK(next == 65);
}

TEST_CASE("accesses larger than a message are split and put together again") {
  Pair large(patience, 3 * 1024 * 1024 + 5);
  const auto data = pattern(3 * 1024 * 1024 + 4);
  large.answer<Done>(RegionWrite{0, 1, data});
  CHECK(large.answer<Data>(RegionRead{0, 1, static_cast<std::uint32_t>(data.size())}).bytes == data);
  // One part out of range fails the whole.
  CHECK(large.ask(RegionRead{0, 2, static_cast<std::uint32_t>(data.size())}).error() == EINVAL);
}

TEST_CASE("errors of the device pass through; nonsense never reaches it") {
  Pair pair;
  const auto before = pair.device->requests;
  CHECK(pair.ask(RegionRead{0, 8190, 4}).error() == EINVAL);
  CHECK(pair.ask(RegionRead{1, 0, 4}).error() == EACCES);
  CHECK(pair.ask(RegionRead{0, 0, 0}).error() == EINVAL);
  CHECK(pair.ask(RegionWrite{0, UINT64_MAX, Bytes(1)}).error() == EINVAL);
  CHECK(pair.ask(GetRegionInfo{9}).error() == EINVAL);
  CHECK(pair.ask(DmaMap{Iova{1}, 4096, Access::read, {}}).error() == EINVAL);
  CHECK(pair.ask(SetIrqs{0x24, msix, 0, 2, {}, eventfds(1)}).error() == EINVAL);
  CHECK(pair.device->requests == before);
  pair.answer<Info>(GetInfo{}); // nothing is out of step
}

TEST_CASE("pipelined requests take effect and are answered in order, whatever the device's order") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  std::vector<int> answered;
  for (int i = 0; i < 10; ++i)
    pair.client->submit(RegionRead{0, static_cast<std::uint64_t>(i), 1}, [&answered, i](Reply reply) {
      CHECK(reply);
      answered.push_back(i);
    });
  run_until(pair.io, [&pair] { return pair.device->waiting.size() == 10; });
  while (pair.device->waiting.size() > 1) pair.device->complete(pair.device->waiting.size() - 1);
  settle(pair.io);
  CHECK(answered.empty());
  pair.device->complete();
  run_until(pair.io, [&answered] { return answered.size() == 10; });
  CHECK(std::ranges::is_sorted(answered));
}

TEST_CASE("a completion that the device drops is answered with EIO") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::dropped;
  CHECK(pair.ask(Reset{}).error() == EIO);
  CHECK(pair.ask(RegionRead{0, 0, 4}).error() == EIO);
  pair.answer<Info>(GetInfo{});
}

TEST_CASE("a hundred thousand posted writes are carried out, and none is answered") {
  Pair pair;
  const auto writes = pair.device->kinds[5];
  for (int i = 0; i < 100000; ++i) {
    int error;
    while ((error = pair.client->post({0, 8, pattern(4)})) == ENOBUFS) pair.io.poll();
    REQUIRE(error == 0);
  }
  CHECK(pair.answer<Data>(RegionRead{0, 8, 4}).bytes == pattern(4)); // in order behind them
  CHECK(pair.device->kinds[5] == writes + 100000);
}

TEST_CASE("a client that asks much of a slow device is not read without bound") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  int answered = 0;
  for (int i = 0; i < 5000; ++i)
    pair.client->submit(RegionRead{0, 0, 4}, [&answered](Reply reply) { answered += reply ? 1 : 0; });
  settle(pair.io);
  CHECK(pair.device->waiting.size() == 1024);
  while (answered < 5000) {
    while (!pair.device->waiting.empty()) pair.device->complete();
    settle(pair.io);
  }
  CHECK(pair.client->post({0, 0, Bytes(1)}) == 0);
}

TEST_CASE("what waits of a client for a slow device is bounded in bytes") {
  struct Row {
    std::size_t bytes, taken, held; ///< the least that wait while nothing is read: half of all bytes
  };
  for (const auto& [bytes, taken, held] : {Row{user::max_transfer, 4, 2}, Row{user::max_transfer - 1, 5, 3}}) {
    int done = 0;
    Pair pair(patience, 2 * user::max_transfer);
    pair.device->manner = SmallDevice::Manner::later;
    for (int i = 0; i < 8; ++i)
      pair.client->submit(RegionWrite{0, 0, Bytes(bytes)}, [&done](Reply reply) { done += reply ? 1 : 0; });
    settle(pair.io);
    CHECK(pair.device->waiting.size() == taken);
    for (auto left = taken; left > held; --left) {
      pair.device->complete();
      settle(pair.io);
      CHECK(pair.device->waiting.size() == left - 1);
    }
    pair.device->complete();
    settle(pair.io);
    CHECK(pair.device->waiting.size() > held - 1);
    while (!pair.device->waiting.empty()) {
      pair.device->complete();
      settle(pair.io);
    }
    CHECK(done == 8);
  }
}

TEST_CASE("what a client asks to read of a slow device counts as what it sends") {
  Pair pair(patience, 2 * user::max_transfer);
  pair.device->manner = SmallDevice::Manner::later;
  for (int i = 0; i < 8; ++i) pair.client->submit(RegionRead{0, 0, user::max_transfer}, [](Reply) {});
  settle(pair.io);
  CHECK(pair.device->waiting.size() == 4);
}

TEST_CASE("a client that closes while its requests are held up is noticed") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  for (int i = 0; i < 3000; ++i) pair.client->submit(RegionRead{0, 0, 4}, [](Reply) {});
  settle(pair.io);
  pair.client->close();
  run_until(pair.io, [&pair] { return pair.closed == 1; });
  while (!pair.device->waiting.empty()) pair.device->complete(); // nobody is there
}

TEST_CASE("closing the client completes what is under way with ECANCELED, and the server is told once") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  int error = 0, lost = 0;
  pair.client->on_lost([&lost] { ++lost; });
  pair.client->submit(Reset{}, [&error](Reply reply) { error = reply.error(); });
  pair.client->close();
  CHECK(error == ECANCELED);
  pair.client->submit(Reset{}, [&error](Reply reply) { error = -reply.error(); });
  CHECK(error == -ECANCELED);
  run_until(pair.io, [&pair] { return pair.closed == 1; });
  settle(pair.io);
  CHECK(pair.closed == 1);
  CHECK(lost == 0);
}

TEST_CASE("a client whose server goes is told once, and everything completes with ENODEV") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  std::vector<int> errors;
  int lost = 0;
  pair.client->on_lost([&lost] { ++lost; });
  for (int i = 0; i < 3; ++i)
    pair.client->submit(Reset{}, [&errors, &pair](Reply reply) {
      errors.push_back(reply.error());
      if (errors.size() == 1) pair.client->submit(Reset{}, [](Reply later) { CHECK(later.error() == ENODEV); });
    });
  settle(pair.io);
  pair.connection->close();
  run_until(pair.io, [&lost] { return lost == 1; });
  CHECK(errors == std::vector{ENODEV, ENODEV, ENODEV});
  settle(pair.io);
  CHECK(lost == 1);
  CHECK(pair.closed == 0); // it closed by itself
  CHECK(pair.client->post({0, 0, Bytes(1)}) == ENODEV);
  int late = 0;
  pair.client->on_lost([&late] { ++late; });
  CHECK(late == 0);
  settle(pair.io);
  CHECK(late == 1);
}

TEST_CASE("a reply that comes too late loses the device") {
  Pair pair(std::chrono::milliseconds(50));
  pair.device->manner = SmallDevice::Manner::later;
  bool lost = false;
  pair.client->on_lost([&lost] { lost = true; });
  int error = 0;
  pair.client->submit(Reset{}, [&error](Reply reply) { error = reply.error(); });
  run_until(pair.io, [&lost] { return lost; });
  CHECK(error == ETIMEDOUT);
  pair.client->submit(Reset{}, [&error](Reply reply) { error = reply.error(); });
  CHECK(error == ENODEV);
}

TEST_CASE("what the device does not complete is answered in time for QEMU") {
  Pair pair(std::chrono::seconds(20));
  pair.device->manner = SmallDevice::Manner::later;
  int error = 0;
  Bytes data;
  const auto start = std::chrono::steady_clock::now();
  pair.client->submit(RegionRead{0, 0, 4}, [&data](Reply reply) { data = std::get<Data>(*reply).bytes; });
  pair.client->submit(Reset{}, [&error](Reply reply) { error = reply.error(); });
  run_until(pair.io, [&error] { return error != 0; });
  CHECK(data == Bytes(4, std::byte{0xff}));
  CHECK(error == ETIMEDOUT);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
  pair.device->complete(); // too late, and no harm
  pair.device->complete();
  pair.device->manner = SmallDevice::Manner::at_once;
  pair.answer<Done>(Reset{});
}

TEST_CASE("a window that the device maps when its client has been told otherwise is unmapped again, and only once") {
  Pair pair(std::chrono::seconds(20));
  pair.device->manner = SmallDevice::Manner::later;
  const auto map = [](std::uint64_t iova) {
    return DmaMap{Iova{iova}, 4096, Access::read, make_memfd("window", 4096).value()};
  };
  std::vector<int> errors;
  for (const std::uint64_t iova : {0, 4096, 8192})
    pair.client->submit(map(iova), [&errors](const Reply& reply) { errors.push_back(reply ? 0 : reply.error()); });
  run_until(pair.io, [&errors] { return errors.size() == 3; });
  CHECK(errors == std::vector<int>(3, ETIMEDOUT));
  pair.client->submit(DmaUnmap{Iova{4096}, 4096}, [](const Reply&) {});
  run_until(pair.io, [&pair] { return pair.device->waiting.size() == 4; });
  pair.device->complete();
  REQUIRE(pair.device->waiting.size() == 4);
  const auto* undone = std::get_if<DmaUnmap>(&pair.device->waiting.back().first);
  REQUIRE(undone);
  CHECK((undone->iova == Iova{0} && undone->size == 4096 && !undone->all));
  pair.device->complete(); // the client itself unmaps that one
  REQUIRE(pair.device->waiting.size() == 3);
  if (GENERATE(false, true)) {
    pair.device->complete(1);
    CHECK(pair.device->waiting.size() == 2);
    return;
  }
  auto [unmap, failed] = std::move(pair.device->waiting[1]);
  pair.device->waiting.erase(pair.device->waiting.begin() + 1);
  failed(std::unexpected(EBUSY)); // and does not succeed
  REQUIRE(pair.device->waiting.size() == 3);
  undone = std::get_if<DmaUnmap>(&pair.device->waiting.back().first);
  REQUIRE(undone);
  CHECK((undone->iova == Iova{4096} && undone->size == 4096 && !undone->all));
}

TEST_CASE("a client whose windows are all late is not read without bound") {
  Pair pair;
  pair.device->manner = SmallDevice::Manner::later;
  std::size_t refused = 0;
  for (std::uint64_t i = 0; i < 1500; ++i)
    pair.client->submit(DmaMap{Iova{i * 4096}, 4096, Access::read, {}},
                        [&refused](const Reply& reply) { refused += reply ? 0 : 1; });
  run_until(pair.io, [&refused] { return refused == 1024; });
  settle(pair.io);
  CHECK(pair.device->waiting.size() == 1024);
  while (!pair.device->waiting.empty()) {
    auto [map, failed] = std::move(pair.device->waiting.front());
    pair.device->waiting.pop_front();
    failed(std::unexpected(ENOMEM));
    if (pair.device->waiting.empty()) settle(pair.io);
  }
  CHECK(refused == 1500);
}

TEST_CASE("the device reads and writes the client's memory while the client waits for the device") {
  Pair pair;
  Bytes memory = pattern(65536);
  pair.client->serve_dma(
      [&memory](Iova iova, std::uint32_t count) -> std::expected<Bytes, int> {
        const auto at = static_cast<std::size_t>(iova);
        if (at + count > memory.size()) return std::unexpected(EFAULT);
        return Bytes(memory.begin() + static_cast<std::ptrdiff_t>(at),
                     memory.begin() + static_cast<std::ptrdiff_t>(at + count));
      },
      [&memory](Iova iova, std::span<const std::byte> data) {
        std::ranges::copy(data, memory.begin() + static_cast<std::ptrdiff_t>(iova));
        return 0;
      });
  pair.device->manner = SmallDevice::Manner::later;
  bool answered = false;
  pair.client->submit(RegionRead{0, 0, 4}, [&answered](Reply) { answered = true; });
  run_until(pair.io, [&pair] { return pair.device->waiting.size() == 1; });

  std::optional<Reply> read, write, outside;
  pair.connection->dma_read(Iova{0}, 65536, [&read](Reply reply) { read = std::move(reply); });
  pair.connection->dma_write(Iova{16}, Bytes(3), [&write](Reply reply) { write = std::move(reply); });
  pair.connection->dma_read(Iova{65535}, 2, [&outside](Reply reply) { outside = std::move(reply); });
  run_until(pair.io, [&outside] { return outside.has_value(); });
  CHECK(std::get<Data>(**read).bytes == pattern(65536));
  CHECK(std::holds_alternative<Done>(**write));
  CHECK(memory[16] == std::byte{0});
  CHECK(outside->error() == EFAULT);
  CHECK_FALSE(answered);
  pair.device->complete();
  run_until(pair.io, [&answered] { return answered; });
}

namespace {

/// What the client answers the device's server: bytes, or an errno.
std::expected<Bytes, int> dma_read(Pair& pair, std::uint64_t iova, std::uint32_t count) {
  std::optional<Reply> reply;
  pair.connection->dma_read(Iova{iova}, count, [&reply](Reply answer) { reply = std::move(answer); });
  run_until(pair.io, [&reply] { return reply.has_value(); });
  if (!*reply) return std::unexpected(reply->error());
  return std::get<Data>(std::move(**reply)).bytes;
}
int dma_write(Pair& pair, std::uint64_t iova, const Bytes& data) {
  std::optional<Reply> reply;
  pair.connection->dma_write(Iova{iova}, data, [&reply](Reply answer) { reply = std::move(answer); });
  run_until(pair.io, [&reply] { return reply.has_value(); });
  return *reply ? 0 : reply->error();
}

constexpr std::uint64_t page = 4096;

} // namespace

TEST_CASE("message DMA goes through windows that adjoin, and touches nothing unless all of it is allowed") {
  Pair pair;
  pair.client->serve_mapped_memory();
  const auto low = make_memfd("low", 2 * page).value(), high = make_memfd("high", 2 * page).value();
  pair.answer<Done>(DmaMap{Iova{0x10000}, page, Access::read_write, low.duplicate().value(), page});
  pair.answer<Done>(DmaMap{Iova{0x11000}, page, Access::read_write, high.duplicate().value()});
  pair.answer<Done>(DmaMap{Iova{0x12000}, page, Access::read, high.duplicate().value(), page});
  const auto data = pattern(100);
  CHECK(dma_write(pair, 0x11000 - 50, data) == 0);
  Bytes found(100);
  CHECK(::pread(low.get(), found.data(), 50, static_cast<off_t>(2 * page - 50)) == 50);
  CHECK(::pread(high.get(), found.data() + 50, 50, 0) == 50);
  CHECK(found == data);
  CHECK(dma_read(pair, 0x11000 - 50, 100) == data);
  CHECK(dma_write(pair, 0x12000 - 50, data) == EACCES);
  CHECK(dma_read(pair, 0x12000 - 50, 100) == Bytes(100));
  CHECK(dma_write(pair, 0x13000 - 50, data) == EACCES);
  CHECK(dma_read(pair, 0x13000 - 50, 100) == std::unexpected(EFAULT));
}

TEST_CASE("message DMA of a window reaches its memory from when it is submitted until its unmap is answered") {
  Pair pair;
  pair.client->serve_mapped_memory();
  const auto memory = make_memfd("memory", page).value();
  pair.device->manner = SmallDevice::Manner::later;
  const auto submit = [&pair](Request request) {
    const auto before = pair.device->waiting.size();
    pair.client->submit(std::move(request), [](const Reply&) {});
    run_until(pair.io, [&pair, before] { return pair.device->waiting.size() > before; });
  };
  submit(DmaMap{Iova{0}, page, Access::read_write, memory.duplicate().value()});
  CHECK(dma_write(pair, 0, pattern(8)) == 0); // the server may use it before it says that it has it
  pair.device->complete();
  submit(DmaUnmap{Iova{0}, page});
  submit(DmaMap{Iova{0}, page, Access::read, memory.duplicate().value()}); // at once again
  CHECK(dma_write(pair, 0, pattern(8)) == 0);
  pair.device->complete();
  pair.device->complete();
  CHECK(dma_write(pair, 0, pattern(8)) == EACCES);
  CHECK(dma_read(pair, 0, 8) == pattern(8));
  submit(DmaUnmap{Iova{0}, 0, true});
  pair.device->complete();
  CHECK(dma_read(pair, 0, 8) == std::unexpected(EFAULT));
}

TEST_CASE("message DMA to a window that was refused, has shrunk or is no memory is an error") {
  Pair pair;
  pair.client->serve_mapped_memory();
  const Fd shrinks(::memfd_create("shrinks", MFD_CLOEXEC));
  std::string name = "/var/tmp/smartio-window-XXXXXX";
  const Fd on_disk(::mkstemp(name.data()));
  for (const auto* fd : {&shrinks, &on_disk}) REQUIRE(::ftruncate(fd->get(), page) == 0);
  pair.answer<Done>(DmaMap{Iova{0}, page, Access::read_write, shrinks.duplicate().value()});
  REQUIRE(::ftruncate(shrinks.get(), 0) == 0);
  CHECK(dma_read(pair, 0, 8) == std::unexpected(EFAULT));
  CHECK(dma_write(pair, 0, pattern(8)) == EFAULT);
  if (::fcntl(on_disk.get(), F_GET_SEALS) < 0) { // where /var/tmp is a disk
    pair.answer<Done>(DmaMap{Iova{page}, page, Access::read_write, on_disk.duplicate().value()});
    CHECK(dma_read(pair, page, 8) == std::unexpected(EFAULT));
  }
  CHECK_FALSE(pair.ask(DmaMap{Iova{2 * page}, 2 * page, Access::read, make_memfd("short", page).value()}));
  CHECK(dma_read(pair, 2 * page, 8) == std::unexpected(EFAULT));
  ::unlink(name.c_str());
}

TEST_CASE("thousands of windows onto one file cost one descriptor, and none when they are unmapped") {
  Pair pair;
  pair.client->serve_mapped_memory();
  const auto memory = make_memfd("memory", page).value();
  const auto windows = [&pair](const Fd& fd, std::uint64_t count, std::uint64_t first) {
    for (std::uint64_t i = 0; i < count; ++i)
      pair.answer<Done>(DmaMap{Iova{(first + i) * page}, page, Access::read, fd.duplicate().value()});
    pair.device->windows.clear(); // and with them its descriptors
  };
  const auto before = open_descriptors();
  windows(memory, 2000, 0);
  CHECK(open_descriptors() == before + 1);
  for (std::uint64_t i = 0; i < 300; ++i) windows(make_memfd("other", page).value(), 1, 3000 + i);
  CHECK(open_descriptors() <= before + 256);
  pair.answer<Unmapped>(DmaUnmap{Iova{0}, 0, true});
  CHECK(open_descriptors() == before);
}

TEST_CASE("message DMA is refused where it cannot be") {
  Pair pair;
  int error = 0;
  const auto keep = [&error](Reply reply) { error = reply ? 0 : reply.error(); };
  pair.connection->dma_read(Iova{0}, 65537, keep);
  CHECK(std::exchange(error, 0) == EINVAL);
  pair.connection->dma_write(Iova{0}, {}, keep);
  CHECK(std::exchange(error, 0) == EINVAL);
  pair.connection->dma_read(Iova{0}, 4, keep); // nobody serves it
  run_until(pair.io, [&error] { return error != 0; });
  CHECK(std::exchange(error, 0) == EFAULT);
  pair.connection->dma_read(Iova{0}, 4, keep);
  pair.connection->close();
  CHECK(std::exchange(error, 0) == ENODEV);
  pair.connection->dma_read(Iova{0}, 4, keep);
  CHECK(error == ENODEV);
}

TEST_CASE("a finished pair leaves no descriptor behind") {
  const auto before = open_descriptors();
  {
    Pair pair;
    pair.answer<RegionInfo>(GetRegionInfo{0});
    pair.answer<Done>(SetIrqs{0x24, msix, 0, 65, {}, eventfds(65)});
    pair.answer<Done>(DmaMap{Iova{0}, 4096, Access::read_write, make_memfd("window", 4096).value()});
    CHECK(pair.connection->peer().pid == ::getpid());
  }
  CHECK(open_descriptors() == before);
}
