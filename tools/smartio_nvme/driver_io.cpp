// Reads, writes and flushes, and waiting for completions.
#include "driver.hpp"

#include "result.hpp"

#include <poll.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace nvme {
namespace {

using namespace std::chrono_literals;
using smartio::Errc;
using smartio::fail;
using smartio::fail_errno;
using smartio::Result;
using Clock = std::chrono::steady_clock;

constexpr auto look_interval = 500ms; ///< at the status of a controller that completes nothing

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

} // namespace

Result<void> Driver::make_buffers(unsigned count, std::size_t bytes) {
  buffers_ = TRY(Buffers::make(device_, count, bytes));
  return {};
}

// Read and Write (NVM 6.9, 6.15): cdw10-11 the first block, cdw12 the number of blocks less one.
Result<void> Driver::submit(std::uint8_t opcode, std::uint64_t lba, std::size_t blocks, unsigned buffer) {
  Command command{.opcode = opcode, .id = static_cast<std::uint16_t>(buffer), .namespace_id = namespace_id};
  command.cdw10 = static_cast<std::uint32_t>(lba);
  command.cdw11 = static_cast<std::uint32_t>(lba >> 32);
  command.cdw12 = static_cast<std::uint32_t>(blocks - 1);
  buffers_->describe(command, buffer, blocks * identity_.block_size);
  return io_->submit(command);
}

Result<unsigned> Driver::wait(std::chrono::milliseconds patience) {
  const Completion completion = TRY(next(*io_, interrupts(), patience));
  if (!succeeded(completion.status))
    return fail_errno(EIO, fmt::format("a command failed with {}", status_text(completion.status)));
  return completion.id;
}

Result<void> Driver::flush() {
  TRY(io_->submit({.opcode = io_flush, .namespace_id = namespace_id}));
  TRY(wait(patience_.flush));
  return {};
}

Result<Completion> Driver::next(Queue& queue, bool sleep, std::chrono::milliseconds patience) {
  constexpr unsigned spins_between_looks_at_the_clock = 1024;
  std::optional<Wait> waiting;
  auto checked = Clock::time_point::min();
  for (unsigned spins = 1;; ++spins) {
    if (const auto completion = TRY(queue.poll())) return *completion;
    if (!sleep && spins % spins_between_looks_at_the_clock != 0) {
      relax();
      continue;
    }
    const auto now = Clock::now();
    if (!waiting) {
      waiting = Wait{patience, now, now};
      checked = now;
    }
    if (sleep) {
      TRY(sleep_until_interrupt());
    } else if (now - checked < 5ms) {
      std::this_thread::yield(); // where the device is software, it may need this very processor
      continue;
    }
    checked = now;
    TRY(still_ours(*waiting));
  }
}

// Called when all completions were taken: what made INTx fire has been seen to, and it can be armed again.
Result<void> Driver::sleep_until_interrupt() {
  if (std::exchange(fired_, false)) TRY(interrupt_->rearm());
  pollfd events[] = {{interrupt_->fd(), POLLIN, 0}, {device_.revoked_fd(), POLLIN, 0}};
  ::poll(events, 2, static_cast<int>(std::chrono::milliseconds(look_interval).count()));
  std::uint64_t count = 0; // drained before the queue is looked at again, so that no interrupt is lost
  fired_ = ::read(interrupt_->fd(), &count, sizeof count) > 0;
  return {};
}

// An error once the device was taken back or has failed, or nothing was completed for too long.
Result<void> Driver::still_ours(Wait& wait) const {
  pollfd revoked{device_.revoked_fd(), POLLIN, 0};
  if (::poll(&revoked, 1, 0) > 0) return fail(Errc::revoked, "The device was taken back");
  const auto now = Clock::now();
  const bool over = now - wait.began >= wait.patience;
  if (!over && now - wait.looked < look_interval) return {};
  wait.looked = now;
  const std::uint32_t status = TRY(read32(reg_csts));
  if (status == UINT32_MAX)
    return fail(Errc::revoked, "The controller's registers read as all ones: the device is gone");
  if ((status & csts_fatal) != 0) return fail_errno(EIO, "the controller reports a fatal error (CSTS.CFS)");
  if (!over) return {};
  return fail(Errc::timed_out, "The controller completed nothing for {} ms", wait.patience.count());
}

} // namespace nvme
