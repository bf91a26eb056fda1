#include "queue.hpp"

#include "barriers.hpp"
#include "result.hpp"

#include <cstring>

namespace nvme {
namespace {

using smartio::Errc;
using smartio::fail;
using smartio::Result;

} // namespace

Result<Queue> Queue::make(const smartio::Device& device, smartio::BarMapping bar, unsigned id, unsigned entries,
                          unsigned doorbell_stride) {
  // Doorbells (3.1.24, 3.1.25): the tail of submission queue y at (2y) strides, the head of completion queue y next.
  const std::size_t stride = std::size_t{4} << doorbell_stride;
  const std::size_t doorbell = doorbell_base + 2 * id * stride;
  if (doorbell + stride + 4 > bar.size())
    return fail(Errc::bad_request, "The doorbells of queue {} are outside of BAR 0 ({} bytes)", id, bar.size());
  auto memory = TRY(
      smartio::Memory::allocate(whole_pages(entries * sizeof(Command)) + whole_pages(entries * sizeof(Completion))));
  auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  return Queue(std::move(bar), std::move(memory), std::move(window), id, entries, doorbell, stride);
}

Queue::Queue(smartio::BarMapping bar, smartio::Memory memory, smartio::DmaWindow window, unsigned id, unsigned entries,
             std::size_t doorbell, std::size_t stride)
    : bar_(std::move(bar)), memory_(std::move(memory)), window_(std::move(window)), tail_doorbell_(doorbell),
      head_doorbell_(doorbell + stride), mapped_tail_(bar_.mapped(tail_doorbell_, 4)),
      mapped_head_(bar_.mapped(head_doorbell_, 4)), under_way_(entries), entries_(entries),
      id_(static_cast<std::uint16_t>(id)) {
  completions_ =
      reinterpret_cast<volatile Completion*>(memory_.bytes().data() + whole_pages(entries * sizeof(Command)));
}

std::uint64_t Queue::submission_iova() const noexcept { return std::to_underlying(window_.iova()); }
std::uint64_t Queue::completion_iova() const noexcept {
  return submission_iova() + whole_pages(entries_ * sizeof(Command));
}

Result<void> Queue::ring(std::size_t offset, volatile std::byte* mapped, std::uint32_t value) {
  before_doorbell();
  if (mapped == nullptr) return bar_.post(offset, 4, value);
  *reinterpret_cast<volatile std::uint32_t*>(mapped) = value;
  return {};
}

Result<void> Queue::submit(const Command& command) {
  under_way_[command.id] = true;
  std::memcpy(memory_.bytes().data() + tail_ * sizeof(Command), &command, sizeof command);
  tail_ = tail_ + 1 == entries_ ? 0 : tail_ + 1;
  return ring(tail_doorbell_, mapped_tail_, tail_);
}

Result<std::optional<Completion>> Queue::poll() {
  const volatile Completion& entry = completions_[head_];
  const std::uint16_t status = entry.status;
  if ((status & 1) != phase_) return std::nullopt; // the phase tag inverts on every pass (4.6)
  after_mark();
  const Completion completion{entry.result, 0, entry.sq_head, entry.sq_id, entry.id, status};
  if (completion.sq_id != id_ || completion.id >= entries_ || !under_way_[completion.id])
    return fail(Errc::bad_request, "The controller completed command {} of queue {}, which is not under way",
                completion.id, completion.sq_id);
  under_way_[completion.id] = false;
  if (++head_ == entries_) {
    head_ = 0;
    phase_ ^= 1;
  }
  if (auto rung = ring(head_doorbell_, mapped_head_, head_); !rung) return std::unexpected(std::move(rung).error());
  return completion;
}

} // namespace nvme
