// A user-space NVMe driver: one controller, its first namespace, one I/O queue pair. Written against the public
// interface of libsmartio only.
#pragma once

#include "buffers.hpp"
#include "queue.hpp"

#include <chrono>
#include <smartio/smartio.hpp>
#include <string>

namespace nvme {

/// From Identify Controller and Identify Namespace (5.15.2), checked.
struct Identity {
  std::string model, serial, firmware;
  unsigned vendor = 0;
  std::string version; ///< of the specification the controller implements, "1.4.0"
  unsigned queue_entries = 0;
  std::size_t max_transfer = 0; ///< bytes a command; what the controller allows and max_buffer at most
  bool write_cache = false;
  std::uint64_t blocks = 0;
  std::size_t block_size = 0;
};

inline constexpr std::uint32_t namespace_id = 1;

/// How long the driver waits for a completion before it gives the controller up.
struct Patience {
  std::chrono::milliseconds command{10'000};
  std::chrono::milliseconds flush{120'000}; ///< brings to the medium whatever was written before, gigabytes perhaps
};

class Driver {
public:
  /// Resets the controller, identifies it and its first namespace, makes the I/O queues. With `interrupts` waiting for
  /// a completion sleeps, otherwise it spins. Bounded by what the controller says it needs (CAP.TO).
  static smartio::Result<std::unique_ptr<Driver>> start(smartio::Device device, bool interrupts,
                                                        Patience patience = {});
  /// Deletes the queues and disables the controller, so that nothing is under way when the memory goes.
  ~Driver();

  const Identity& identity() const noexcept { return identity_; }
  unsigned max_depth() const noexcept { return io_->entries() - 1; } ///< commands that may be under way at once
  bool interrupts() const noexcept { return interrupt_.has_value(); }

  /// Buffers for `count` commands at once (at most max_depth()), `bytes` each (at most max_transfer).
  smartio::Result<void> make_buffers(unsigned count, std::size_t bytes);
  std::span<std::byte> buffer(unsigned number) const noexcept { return buffers_->data(number); }

  /// Starts a read or write (io_read, io_write) of `blocks` at `lba`, within the namespace, from or into a buffer.
  smartio::Result<void> submit(std::uint8_t opcode, std::uint64_t lba, std::size_t blocks, unsigned buffer);
  /// Waits until a command started with submit is done and gives its buffer. Errors: Errc::revoked, Errc::timed_out,
  /// EIO with the status the controller gave, or when it has failed (CSTS.CFS).
  smartio::Result<unsigned> wait() { return wait(patience_.command); }

  smartio::Result<void> flush(); ///< while nothing else is under way

private:
  /// One wait for a completion.
  struct Wait {
    std::chrono::milliseconds patience;
    std::chrono::steady_clock::time_point began, looked; ///< at the controller's status
  };
  Driver(smartio::Device device, smartio::BarMapping bar, Patience patience)
      : device_(std::move(device)), bar_(std::move(bar)), patience_(patience) {}

  smartio::Result<std::uint32_t> read32(std::size_t reg) const;
  smartio::Result<void> write64(std::size_t reg, std::uint64_t value) const;
  smartio::Result<void> set_bus_master(bool on) const;
  smartio::Result<void> reset();
  smartio::Result<void> await_ready(bool ready) const;
  smartio::Result<void> enable();
  smartio::Result<Completion> admin(Command command, const std::string& what);
  smartio::Result<void> identify();
  smartio::Result<void> identify_controller();
  smartio::Result<void> identify_namespace();
  smartio::Result<void> make_io_queue(bool interrupts);
  smartio::Result<unsigned> wait(std::chrono::milliseconds patience);
  smartio::Result<Completion> next(Queue& queue, bool sleep, std::chrono::milliseconds patience);
  smartio::Result<void> sleep_until_interrupt();
  smartio::Result<void> still_ours(Wait& wait) const;
  void stop();

  // Teardown order: the destructor stops the controller, then memory and interrupt go, then the device.
  smartio::Device device_;
  smartio::BarMapping bar_;
  Patience patience_;
  std::uint64_t capabilities_ = 0;
  Identity identity_;
  bool enabled_ = false;
  std::optional<smartio::Interrupt> interrupt_;
  bool fired_ = false; ///< since it was armed
  std::optional<Queue> admin_, io_;
  std::optional<Buffers> scratch_, buffers_; // scratch: one page for identify
};

} // namespace nvme
