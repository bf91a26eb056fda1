// A driver of the simulated NVMe controller, well-behaved where it is asked to be: its memory, its queues, and commands
// whose outcome is known.
#pragma once

#include "nvme/nvme_function.hpp"
#include "nvme_disk.hpp"
#include "script.hpp"

#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

namespace smartio::test {

inline void require(bool holds) {
  if (!holds) std::abort();
}

/// The host's memory, and the disk.
struct Machine {
  static constexpr std::uint64_t pages = 64, bytes = pages * 4096;

  explicit Machine(std::uint32_t block_size)
      : disk(std::make_shared<Disk>(block_size)), flusher(std::make_shared<nvme::Flusher>(disk)),
        identity(nvme::make_identity("/disk", disk->blocks(), block_size)) {}
  std::shared_ptr<nvme::NvmeFunction> function() const {
    return nvme::NvmeFunction::create(disk, flusher, identity).value();
  }

  Fd memory_fd = make_memfd("host", bytes + 4096).value(), event = make_eventfd().value();
  Mapping memory = Mapping::map(memory_fd.get(), 0, bytes + 4096).value(); ///< the last page is not lent
  std::shared_ptr<Disk> disk;
  std::shared_ptr<nvme::Flusher> flusher;
  nvme::Identity identity;
};

/// A thread that writes into the memory while the controller reads it.
class Scribbler {
public:
  void start(std::span<std::byte> memory, std::span<std::byte> doorbells, unsigned seed) {
    if (thread_.joinable()) return;
    stop_ = false;
    thread_ = std::thread([this, memory, doorbells, seed] {
      std::minstd_rand random(seed);
      while (!stop_.load(std::memory_order_relaxed)) {
        const auto words = random() % 8 == 0 ? doorbells.first(64) : memory;
        auto* word = reinterpret_cast<std::uint32_t*>(words.data()) + random() % (words.size() / 4);
        const auto value = static_cast<std::uint32_t>(random() % 4 == 0 ? random() : random() % 64 * 4096);
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
      }
    });
  }
  bool active() const { return thread_.joinable(); }
  ~Scribbler() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

class Guest {
public:
  explicit Guest(Machine& machine) : machine_(machine), function_(machine.function()) {
    std::memset(memory().data(), 0, 65536);
    fresh();
  }
  ~Guest() {
    for (int i = 0; function_->poll(); ++i) require(i < 10000); // comes to rest
  }

  std::span<std::byte> memory() const { return machine_.memory.bytes().first(Machine::bytes); }
  nvme::NvmeFunction& function() { return *function_; }
  Machine& machine() { return machine_; }
  Disk& disk() { return *machine_.disk; }

  void request(vfio::Request what, std::function<void(vfio::Answer&)> look = nullptr) {
    int answers = 0;
    function_->submit(std::move(what), [&](vfio::Reply reply) {
      ++answers;
      if (reply && look) look(*reply);
    });
    require(answers == 1);
  }
  void set(std::uint64_t offset, std::uint32_t value) {
    const auto data = std::as_bytes(std::span(&value, 1));
    request(vfio::RegionWrite{0, offset, {data.begin(), data.end()}});
  }
  void ring(unsigned index, std::uint32_t value) {
    __atomic_store_n(reinterpret_cast<std::uint32_t*>(doorbells().data()) + index, value, __ATOMIC_RELAXED);
  }
  std::span<std::byte> doorbells() const { return doorbells_.bytes(); }
  void map(std::uint64_t iova, std::uint64_t size, Access access, std::uint64_t offset) {
    request(vfio::DmaMap{static_cast<Iova>(iova), size, access, machine_.memory_fd.duplicate().value(), offset});
  }

  void enable();
  void put(unsigned queue, const nvme::SubmissionEntry& entry);
  static void create(nvme::SubmissionEntry& entry, unsigned id);
  /// As after power-on, with memory, and three pairs of queues.
  void fresh();
  /// A command on the first I/O queue, which is empty: its status.
  std::uint16_t run(const nvme::SubmissionEntry& entry);

private:
  Machine& machine_;
  std::shared_ptr<nvme::NvmeFunction> function_;
  Mapping doorbells_;
  std::array<std::uint32_t, 4> tails_{};
};

inline void Guest::enable() {
  request(vfio::RegionWrite{vfio::config_region, 4, {std::byte{0x06}, std::byte{0x04}}});
  set(0x14, 0);
  set(0x24, 0x000f000f);
  set(0x28, 0);
  set(0x2c, 0);
  set(0x30, 0x1000);
  set(0x34, 0);
  set(0x14, 0x00460001);
  tails_ = {};
}

inline void Guest::put(unsigned queue, const nvme::SubmissionEntry& entry) {
  auto& tail = tails_[queue];
  std::memcpy(memory().data() + 8192 * queue + tail * 64, &entry, sizeof entry);
  tail = (tail + 1) % 16;
  ring(2 * queue, tail);
}

/// Makes `entry` create the queue of this id: submission queues at even pages, completion queues behind each.
inline void Guest::create(nvme::SubmissionEntry& entry, unsigned id) {
  const bool submission = entry.opcode == nvme::admin_opcode::create_sq;
  entry.cdw10 = 15U << 16 | id;
  entry.cdw11 = id << 16 | (submission ? 1U : 3U);
  entry.prp1 = (2 * id + (submission ? 0 : 1)) * 4096ULL;
}

inline void Guest::fresh() {
  request(vfio::Reset{});
  request(vfio::DmaUnmap{Iova{0}, 0, true});
  map(0, Machine::bytes, Access::read_write, 0);
  std::memset(memory().data(), 0, 8 * 4096);
  request(vfio::GetRegionInfo{0}, [this](vfio::Answer& answer) {
    auto& info = std::get<vfio::RegionInfo>(answer);
    doorbells_ = Mapping::map(info.fd.get(), info.fd_offset + info.areas.at(0).offset, 4096).value();
  });
  enable();
  for (unsigned id = 1; id <= 3; ++id)
    for (const std::uint8_t opcode : {nvme::admin_opcode::create_cq, nvme::admin_opcode::create_sq}) {
      nvme::SubmissionEntry entry{};
      entry.opcode = opcode;
      create(entry, id);
      put(0, entry);
      function_->poll();
    }
}

inline std::uint16_t Guest::run(const nvme::SubmissionEntry& entry) {
  put(1, entry);
  const auto* done = reinterpret_cast<const nvme::CompletionEntry*>(memory().data() + 3 * 4096);
  for (int i = 0; (done->status & 1) == 0; ++i) {
    require(i < 100000);                               // never answered
    if (!function_->poll()) std::this_thread::yield(); // for the flusher
  }
  require(done->command_id == entry.command_id && done->sq_id == 1);
  return static_cast<std::uint16_t>(done->status >> 1 & 0x7ff);
}

} // namespace smartio::test
