// A host for the simulated NVMe controller, in this process: memory the controller can reach, and the few steps of a
// driver. What is checked is left to the tests.
#pragma once

#include "catch.hpp"
#include "nvme/file_store.hpp"
#include "nvme/nvme_function.hpp"

#include <cstring>

namespace smartio::testing {

namespace nvme = sim::nvme;
using nvme::Status;
using nvme::SubmissionEntry;

/// A queue pair as the driver sees it.
struct HostQueue {
  unsigned id = 0;
  std::uint32_t entries = 0;
  std::uint64_t sq = 0, cq = 0;
  std::uint32_t tail = 0, head = 0;
  bool phase = true;
};

/// How the controller says a command ended.
struct Outcome {
  std::uint16_t command_id;
  Status status;
  bool do_not_retry;
  std::uint32_t result;
  std::uint16_t sq_head;
};

class NvmeHost {
public:
  static constexpr std::uint64_t base = 0x100000, memory_bytes = 8 << 20; ///< address of the memory, its size
  static constexpr std::uint64_t data = base + 0x100000;                  ///< where tests may put their data

  explicit NvmeHost(std::uint64_t file_bytes = 4 << 20, std::uint32_t block_size = 512);
  explicit NvmeHost(std::shared_ptr<nvme::Store> store, const nvme::Shape& shape = {},
                    std::uint32_t namespaces = 1); ///< `file` is none

  // Requests; each must succeed unless the name says otherwise.
  vfio::Reply request(vfio::Request request);
  std::uint64_t read(std::uint32_t region, std::uint64_t offset, unsigned width);
  void write(std::uint32_t region, std::uint64_t offset, unsigned width, std::uint64_t value);
  std::uint64_t reg(std::uint32_t offset, unsigned width = 4) { return read(0, offset, width); }
  void set_reg(std::uint32_t offset, std::uint64_t value, unsigned width = 4) { write(0, offset, width, value); }
  int map(std::uint64_t iova, std::uint64_t bytes, Access access, int fd, std::uint64_t offset); ///< 0 or errno
  void unmap(std::uint64_t iova, std::uint64_t bytes);
  Fd assign_vector(unsigned vector); ///< a fresh eventfd

  // The driver.
  void enable(std::uint32_t admin_entries = 16); ///< bus master on, admin queue, CC.EN
  void disable() { set_reg(0x14, 0); }
  HostQueue create_pair(unsigned id, std::uint32_t entries = 16, std::optional<unsigned> vector = std::nullopt);
  std::uint16_t put(HostQueue& queue, SubmissionEntry command); ///< without the doorbell; gives the command id
  void ring(const HostQueue& queue);
  void poll();                                                          ///< until the controller has nothing more to do
  std::optional<Outcome> take(HostQueue& queue, bool ring_head = true); ///< next completion, if there is one
  Outcome run(HostQueue& queue, SubmissionEntry command);
  Outcome admin(SubmissionEntry command) { return run(admin_queue, command); }
  Outcome io(std::uint8_t opcode, std::uint64_t lba, std::uint32_t blocks, std::uint64_t prp1 = data,
             std::uint64_t prp2 = 0, std::uint32_t cdw12 = 0); ///< on pair 1, made when first needed

  template <class T> T load(std::uint64_t address) const {
    T value;
    std::memcpy(&value, at(address), sizeof value);
    return value;
  }
  template <class T> void store(std::uint64_t address, T value) { std::memcpy(at(address), &value, sizeof value); }
  std::byte* at(std::uint64_t address) const { return memory.bytes().data() + (address - base); }
  std::span<std::byte> bytes(std::uint64_t address, std::size_t size) const { return {at(address), size}; }
  void fill(std::uint64_t address, std::size_t size, unsigned seed); ///< with a pattern
  std::vector<std::byte> file_bytes(std::uint64_t offset, std::size_t size) const;

  Fd file, memory_fd;
  Mapping memory, doorbells;
  std::shared_ptr<nvme::Faults> faults = std::make_shared<nvme::Faults>();
  std::shared_ptr<nvme::NvmeFunction> function;
  HostQueue admin_queue, io_queue;

private:
  NvmeHost(Fd disk, std::uint32_t block_size);

  std::uint16_t next_id_ = 0;
  nvme::Shape shape_;
};

} // namespace smartio::testing
