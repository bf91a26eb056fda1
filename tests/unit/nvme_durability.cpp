// The simulated NVMe controller's promises about its medium: what is there, and when, after which command; and that a
// medium that failed is not believed again. The store is one whose medium can be looked at.
#include "nvme_host.hpp"

#include <algorithm>
#include <atomic>
#include <semaphore>
#include <thread>

using namespace smartio;
using namespace smartio::testing;
namespace admin_opcode = smartio::sim::nvme::admin_opcode;
namespace opcode = smartio::sim::nvme::io_opcode;
using nvme::Store;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t block = 512;
constexpr std::uint32_t forced = 1U << 30;

/// A volatile cache over a medium, and how often one was brought to the other.
class MediumStore final : public Store {
public:
  explicit MediumStore(std::size_t bytes) : cache_(bytes), medium_(bytes) {}

  std::uint64_t blocks() const override { return cache_.size() / block; }
  std::uint32_t block_size() const override { return block; }

  int read(std::uint64_t first, std::span<iovec> to) override {
    const std::lock_guard lock(mutex_);
    auto from = cache_.begin() + static_cast<std::ptrdiff_t>(first * block);
    for (const iovec& piece : to) {
      std::copy_n(from, piece.iov_len, static_cast<std::byte*>(piece.iov_base));
      from += static_cast<std::ptrdiff_t>(piece.iov_len);
    }
    return read_error;
  }
  int write(std::uint64_t first, std::span<iovec> from, Until until) override {
    const std::lock_guard lock(mutex_);
    if (write_error != 0) return write_error;
    const auto start = static_cast<std::ptrdiff_t>(first * block);
    auto to = cache_.begin() + start;
    for (const iovec& piece : from) to = std::copy_n(static_cast<std::byte*>(piece.iov_base), piece.iov_len, to);
    if (until == Until::stable) std::copy(cache_.begin() + start, to, medium_.begin() + start);
    return 0;
  }
  int flush() override {
    const int error = flush_now();
    if (held_) [[maybe_unused]]
      const bool permitted = permits_.try_acquire_for(10s);
    return error;
  }
  /// From now on a flush waits for a permit once it has done its work: what is written then is not in it.
  std::counting_semaphore<>& hold_flushes() {
    held_ = true;
    return permits_;
  }
  int zero(std::uint64_t first, std::uint64_t count, bool) override {
    const std::lock_guard lock(mutex_);
    ++zeroings_;
    std::fill_n(cache_.begin() + static_cast<std::ptrdiff_t>(first * block), count * block, std::byte{0});
    return write_error;
  }

  std::byte on_medium(std::uint64_t of_block) const {
    const std::lock_guard lock(mutex_);
    return medium_[of_block * block];
  }
  int flushes() const {
    const std::lock_guard lock(mutex_);
    return flushes_;
  }
  int zeroings() const {
    const std::lock_guard lock(mutex_);
    return zeroings_;
  }
  int read_error = 0, write_error = 0, flush_error = 0; ///< changed while nothing is under way

private:
  int flush_now() {
    const std::lock_guard lock(mutex_);
    ++flushes_;
    if (const int error = std::exchange(flush_error, 0)) return error; // told once, as the kernel does
    medium_ = cache_;
    return 0;
  }

  mutable std::mutex mutex_;
  std::atomic<bool> held_ = false;
  std::counting_semaphore<> permits_{0};
  std::vector<std::byte> cache_, medium_;
  int flushes_ = 0, zeroings_ = 0;
};

struct Durable : NvmeHost {
  explicit Durable(std::shared_ptr<MediumStore> on = std::make_shared<MediumStore>(64 << 20))
      : NvmeHost(on), store(std::move(on)) {
    enable();
    io_queue = create_pair(1);
  }
  Status write(std::uint64_t lba, std::byte value, std::uint32_t flags = 0) {
    std::fill_n(at(data), block, value);
    return io(opcode::write, lba, 1, data, 0, flags).status;
  }
  Status flush() { return io(opcode::flush, 0, 1).status; }
  Outcome set_cache(bool on) {
    SubmissionEntry entry{};
    entry.opcode = admin_opcode::set_features;
    entry.cdw10 = nvme::feature::write_cache;
    entry.cdw11 = on ? 1 : 0;
    return admin(entry);
  }
  Status deallocate(std::uint64_t lba, std::uint32_t blocks) {
    NvmeHost::store(data, 0U);
    NvmeHost::store(data + 4, blocks);
    NvmeHost::store(data + 8, lba);
    SubmissionEntry entry{};
    entry.opcode = opcode::dataset_management;
    entry.nsid = 1;
    entry.prp1 = data;
    entry.cdw11 = 4;
    return run(io_queue, entry).status;
  }
  /// Without waiting for its end.
  std::uint16_t begin(std::uint8_t code, std::uint64_t lba = 0) {
    SubmissionEntry entry{};
    entry.opcode = code;
    entry.nsid = nvme::namespace_id;
    entry.prp1 = data;
    entry.cdw10 = static_cast<std::uint32_t>(lba);
    const auto id = put(io_queue, entry);
    ring(io_queue);
    function->poll();
    return id;
  }
  void shut_down() {
    set_reg(0x14, 0x00464001);
    while (reg(0x1c) == 5) std::this_thread::yield();
  }
  std::byte on_medium(std::uint64_t lba) const { return store->on_medium(lba); }

  std::shared_ptr<MediumStore> store;
};

constexpr std::byte nothing{0}, one{1}, two{2};

} // namespace

TEST_CASE_METHOD(Durable,
                 "what was written is on the medium once a Flush has completed, and not before it was asked for") {
  REQUIRE(write(7, one) == Status::success);
  CHECK(on_medium(7) == nothing);
  REQUIRE(flush() == Status::success);
  CHECK(on_medium(7) == one);
  CHECK(store->flushes() == 1);
}

TEST_CASE_METHOD(Durable, "a forced write is on the medium when it completes, others' data need not be") {
  REQUIRE(write(7, one) == Status::success);
  REQUIRE(write(8, two, forced) == Status::success);
  CHECK(on_medium(8) == two);
  CHECK(on_medium(7) == nothing);
  CHECK(store->flushes() == 0);
}

TEST_CASE_METHOD(Durable, "what is read, compared or zeroed by force is on the medium when that completes") {
  const std::uint8_t code = GENERATE(opcode::read, opcode::compare, opcode::write_zeroes);
  REQUIRE(write(7, one, code == opcode::write_zeroes ? forced : 0) == Status::success);
  REQUIRE(io(code, 7, 1, data, 0, forced).status == Status::success);
  CHECK(on_medium(7) == (code == opcode::write_zeroes ? nothing : one));
  CHECK(store->flushes() == 1);
}

TEST_CASE_METHOD(Durable, "reads and comparisons without force flush nothing") {
  REQUIRE(write(7, one) == Status::success);
  CHECK(io(opcode::compare, 7, 1).status == Status::success);
  CHECK(io(opcode::read, 7, 1).status == Status::success);
  CHECK(store->flushes() == 0);
}

TEST_CASE_METHOD(Durable, "switching the write cache off empties it, switching it on or off again does not") {
  REQUIRE(write(7, one) == Status::success);
  CHECK(set_cache(true).status == Status::success);
  CHECK(on_medium(7) == nothing);
  CHECK(set_cache(false).status == Status::success);
  CHECK(on_medium(7) == one);
  CHECK(set_cache(false).status == Status::success);
  CHECK(store->flushes() == 1);
}

TEST_CASE_METHOD(Durable, "without a write cache every change is on the medium when its command completes") {
  REQUIRE(write(9, two, forced) == Status::success);
  REQUIRE(write(10, two, forced) == Status::success);
  REQUIRE(set_cache(false).status == Status::success);
  CHECK(write(7, one) == Status::success);
  CHECK(on_medium(7) == one);
  CHECK(io(opcode::write_zeroes, 9, 1).status == Status::success);
  CHECK(on_medium(9) == nothing);
  CHECK(deallocate(10, 1) == Status::success);
  CHECK(on_medium(10) == nothing);
  CHECK(set_cache(true).status == Status::success);
  CHECK(write(7, two) == Status::success);
  CHECK(on_medium(7) == one);
}

TEST_CASE_METHOD(Durable, "a shutdown that has completed has everything on the medium; one whose flush fails says so") {
  const bool fails = GENERATE(false, true);
  REQUIRE(write(7, one) == Status::success);
  store->flush_error = fails ? EIO : 0;
  shut_down();
  CHECK(reg(0x1c) == (fails ? 11 : 9)); // ready, shutdown complete; fatal
  CHECK(on_medium(7) == (fails ? nothing : one));
}

TEST_CASE_METHOD(Durable, "a medium that lost data is never again said to have it, by no flush and to no client") {
  const int how = GENERATE(0, 1, 2);
  REQUIRE(write(7, one) == Status::success);
  store->flush_error = how == 2 ? 0 : EIO;
  if (how == 0) CHECK(flush() == Status::write_fault);
  if (how == 1) CHECK(set_cache(false).status == Status::internal_error);
  if (how == 2) {
    store->write_error = EIO;
    CHECK(write(8, one, forced) == Status::write_fault);
    store->write_error = 0;
  }
  CHECK(flush() == Status::write_fault);
  disable();
  enable();
  io_queue = create_pair(1);
  CHECK(flush() == Status::write_fault);
  CHECK(write(7, one) == Status::success);
  CHECK(flush() == Status::write_fault);
  shut_down();
  CHECK((reg(0x1c) & 2) != 0);
}

TEST_CASE_METHOD(Durable, "a Flush that comes while the medium is being flushed waits for another one") {
  auto& permits = store->hold_flushes();
  const auto first = begin(opcode::flush);
  while (store->flushes() < 1) std::this_thread::yield();
  std::fill_n(at(data), block, one);
  const auto written = begin(opcode::write, 7);
  CHECK(take(io_queue).value().command_id == written);
  const auto second = begin(opcode::flush);
  permits.release();
  while (store->flushes() < 2) std::this_thread::yield(); // the first is over
  function->poll();
  CHECK(take(io_queue).value().command_id == first);
  CHECK_FALSE(take(io_queue));
  permits.release();
  poll();
  CHECK(take(io_queue).value().command_id == second);
  CHECK(on_medium(7) == one);
}

TEST_CASE_METHOD(Durable, "a Flush under way is aborted with its queue") {
  auto& permits = store->hold_flushes();
  const auto flushing = begin(opcode::flush);
  SubmissionEntry remove{};
  remove.opcode = admin_opcode::delete_sq;
  remove.cdw10 = 1;
  put(admin_queue, remove);
  ring(admin_queue);
  function->poll();
  CHECK(take(admin_queue).value().status == Status::success);
  const auto ended = take(io_queue).value();
  CHECK(ended.command_id == flushing);
  CHECK(ended.status == Status::aborted_by_deletion);
  CHECK_FALSE(function->settling());
  permits.release();
}

TEST_CASE_METHOD(Durable, "a failed Flush counts as a failed command and is in the error log") {
  store->flush_error = EIO;
  CHECK(function->counters().failed_commands == 0);
  const auto ended = io(opcode::flush, 0, 1);
  CHECK(ended.status == Status::write_fault);
  CHECK_FALSE(ended.do_not_retry);
  CHECK(function->counters().failed_commands == 1);
  SubmissionEntry entry{};
  entry.opcode = admin_opcode::get_log_page;
  entry.nsid = nvme::all_namespaces;
  entry.cdw10 = 15U << 16 | 1;
  entry.prp1 = data;
  REQUIRE(admin(entry).status == Status::success);
  CHECK(load<std::uint16_t>(data + 8) == 1); // the queue
  CHECK(load<std::uint16_t>(data + 10) == ended.command_id);
}

TEST_CASE_METHOD(Durable, "a full store and a failing one are told apart") {
  const auto [error, status] =
      GENERATE(std::pair{ENOSPC, Status::capacity_exceeded}, //
               std::pair{EDQUOT, Status::capacity_exceeded}, std::pair{EIO, Status::write_fault});
  store->write_error = error;
  CHECK(write(1, one) == status);
  const auto zeroed = io(opcode::write_zeroes, 1, 1);
  CHECK(zeroed.status == status);
  CHECK_FALSE(zeroed.do_not_retry);
  CHECK(deallocate(1, 1) == status);
  CHECK(flush() == Status::success); // nothing that completed was lost
  store->read_error = EIO;
  CHECK(io(opcode::read, 1, 1).status == Status::unrecovered_read);
  CHECK(io(opcode::compare, 1, 1).status == Status::unrecovered_read);
}

TEST_CASE_METHOD(Durable, "zeroing a whole disk goes in pieces, and other commands pass it") {
  REQUIRE(write(0, one) == Status::success);
  NvmeHost::store(data, 0U);
  NvmeHost::store(data + 4, 131072U);
  NvmeHost::store(data + 8, std::uint64_t{0});
  SubmissionEntry entry{};
  entry.opcode = opcode::dataset_management;
  entry.nsid = 1;
  entry.prp1 = data;
  entry.cdw11 = 4;
  const auto zeroes = put(io_queue, entry);
  entry = {};
  entry.opcode = opcode::read;
  entry.nsid = 1;
  entry.prp1 = data + 4096;
  const auto reads = put(io_queue, entry);
  ring(io_queue);
  CHECK(function->poll());
  CHECK(store->zeroings() <= 1);
  CHECK(take(io_queue).value().command_id == reads);
  CHECK(function->poll());
  CHECK(store->zeroings() <= 2);
  CHECK_FALSE(take(io_queue));
  SECTION("to its end") {
    poll();
    CHECK(take(io_queue).value().command_id == zeroes);
    CHECK(store->zeroings() == 16); // 64 MiB, 4 MiB each
    CHECK(io(opcode::read, 0, 1).status == Status::success);
    CHECK(*at(data) == nothing);
  }
  SECTION("until a reset") {
    disable();
    const int zeroings = store->zeroings();
    enable();
    poll();
    CHECK(store->zeroings() == zeroings);
  }
}
