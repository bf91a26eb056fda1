// How often a second a client of a vfio-user socket can read a register, write one, write one without an answer, and
// map and unmap a page of its memory, one after the other as QEMU does it: socket_rates PATH [SECONDS-EACH]. Prints one
// JSON object.
#include "output.hpp"
#include "result.hpp"
#include "user/client.hpp"

#include <boost/asio/io_context.hpp>
#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint64_t interrupt_mask_set = 0x0c; ///< INTMS (NVM Express 1.4, 3.1.3); zeros change nothing
constexpr int posts_at_once = 1000;

[[noreturn]] void give_up(const std::string& why) {
  say("socket_rates: {}\n", why);
  std::exit(1);
}

struct Bench {
  boost::asio::io_context io;
  std::shared_ptr<user::Client> client;
  std::chrono::duration<double> time{};

  void connect(const std::string& path) {
    std::optional<Result<std::shared_ptr<user::Client>>> opened;
    user::Client::connect(io, path, std::chrono::seconds(5), [&opened](auto result) { opened = std::move(result); });
    while (!opened) io.run_one();
    if (!*opened) give_up(to_string(opened->error()));
    client = std::move(**opened);
  }

  void ask(Request request) {
    bool done = false;
    client->submit(std::move(request), [&done](Reply reply) {
      if (!reply) give_up(fmt::format("a request was refused: errno {}", reply.error()));
      done = true;
    });
    while (!done) io.run_one();
  }

  /// A write that is not answered; when the server does not keep up, what was written before is waited for.
  void post(const RegionWrite& write) {
    while (const int error = client->post(write)) {
      if (error != ENOBUFS) give_up(fmt::format("a write was refused: errno {}", error));
      ask(RegionRead{0, 0, 4});
    }
    io.poll();
  }

  template <class Work> double per_second(Work work) {
    const auto start = Clock::now();
    std::uint64_t count = 0;
    for (; Clock::now() - start < time; ++count) work();
    return static_cast<double>(count) / std::chrono::duration<double>(Clock::now() - start).count();
  }
};

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) give_up("usage: socket_rates PATH [SECONDS-EACH]");
  Bench bench;
  bench.time = std::chrono::duration<double>(argc > 2 ? std::atof(argv[2]) : 1.0);
  bench.connect(argv[1]);
  const auto memory = make_memfd("bench", 4096);
  if (!memory) give_up(to_string(memory.error()));
  const double reads = bench.per_second([&] { bench.ask(RegionRead{0, 0, 4}); });
  const RegionWrite write{0, interrupt_mask_set, std::vector<std::byte>(4)};
  const double writes = bench.per_second([&] { bench.ask(write); });
  const double posted = bench.per_second([&, left = posts_at_once]() mutable {
    bench.post(write);
    if (--left != 0) return;
    bench.ask(RegionRead{0, 0, 4}); // so that what is counted was done
    left = posts_at_once;
  });
  const double maps = bench.per_second([&] {
    auto fd = memory->duplicate();
    if (!fd) give_up(to_string(fd.error()));
    bench.ask(DmaMap{.iova = Iova{0x100000}, .size = 4096, .access = Access::read_write, .fd = std::move(*fd)});
    bench.ask(DmaUnmap{.iova = Iova{0x100000}, .size = 4096});
  });
  const auto rates = fmt::format("{{\"register_reads\":{:.0f},\"register_writes\":{:.0f},"
                                 "\"posted_writes\":{:.0f},\"map_unmap_pairs\":{:.0f}}}\n",
                                 reads, writes, posted, maps);
  if (const auto written = write_output(rates); !written) give_up(to_string(written.error()));
  bench.client->close();
  return 0;
}
