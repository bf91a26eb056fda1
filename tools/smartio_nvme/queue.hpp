// One submission queue and its completion queue, in memory the controller reaches by itself.
#pragma once

#include "nvme.hpp"

#include <optional>
#include <smartio/device.hpp>
#include <vector>

namespace nvme {

class Queue {
public:
  /// Queue pair `id` (0: admin) of `entries` (2 to 4096), with its doorbells in `bar`.
  static smartio::Result<Queue> make(const smartio::Device& device, smartio::BarMapping bar, unsigned id,
                                     unsigned entries, unsigned doorbell_stride);

  unsigned entries() const noexcept { return entries_; }
  std::uint64_t submission_iova() const noexcept;
  std::uint64_t completion_iova() const noexcept;

  /// Queues the command and tells the controller. Its id, below entries()-1, is free again once its completion came.
  smartio::Result<void> submit(const Command& command);

  /// The next completion if there is one. Where the doorbells are mapped this makes no system call.
  smartio::Result<std::optional<Completion>> poll();

private:
  Queue(smartio::BarMapping bar, smartio::Memory memory, smartio::DmaWindow window, unsigned id, unsigned entries,
        std::size_t doorbell, std::size_t stride);
  smartio::Result<void> ring(std::size_t offset, volatile std::byte* mapped, std::uint32_t value);

  smartio::BarMapping bar_;
  smartio::Memory memory_; // submission queue, then completion queue, each from a page boundary
  smartio::DmaWindow window_;
  volatile Completion* completions_;
  std::size_t tail_doorbell_, head_doorbell_;      // offsets in the BAR
  volatile std::byte *mapped_tail_, *mapped_head_; // the same, mapped; null: trapped
  std::vector<bool> under_way_;                    // by command id
  unsigned entries_, tail_ = 0, head_ = 0;
  std::uint16_t id_, phase_ = 1;
};

} // namespace nvme
