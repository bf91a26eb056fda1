// The controller: its registers (1.4, 3.1), what enabling, resetting and shutting down mean, and a bounded round of
// work on its queues. Where registers are in a BAR, and PCI as such, is the function's affair.
#pragma once

#include "admin.hpp"
#include "faults.hpp"
#include "io_commands.hpp"

namespace smartio::sim::nvme {

/// What one controller did since it was made.
struct ControllerCounters {
  std::uint64_t admin_commands = 0, io_commands = 0, failed_commands = 0, resets = 0, interrupts = 0;

  ControllerCounters& operator+=(const ControllerCounters& other);
};

class Controller {
public:
  Controller(GuestMemory& memory, Interrupts& interrupts, Doorbells& doorbells, Store& store, Flusher& flusher,
             const Identity& identity, const Shape& shape, const Faults& faults);
  Controller(const Controller&) = delete;

  /// Registers below the doorbells, in words: `offset` is a multiple of 4 below register_offset::doorbells. What is not
  /// implemented reads as 0 and ignores writes.
  std::uint32_t read_register(std::uint32_t offset) const;
  void write_register(std::uint32_t offset, std::uint32_t value);
  /// A doorbell written by message rather than in its page: `word` counts words from the first doorbell on.
  void write_doorbell(std::uint32_t word, std::uint32_t value);

  /// Takes in doorbells and carries out commands for a round; says whether there was anything to do. Blocks as one read
  /// or write of the store does, but not for flushes. `line_disabled`: INTx is disabled in configuration space.
  bool poll(bool line_disabled);
  // A round begins no further command after so many, or so long: a client's messages are answered in between.
  static constexpr unsigned round_commands = 16;
  static constexpr std::chrono::milliseconds round_time{2};

  bool settling() const noexcept { return unsettled_.settling(); } ///< commands wait for the store
  /// Enabled and neither failed nor shut down: the doorbells mean something.
  bool running() const noexcept;

  void reset(); ///< everything, as after power-on, but the store
  ControllerCounters counters() const;

private:
  void write_configuration(std::uint32_t value);
  void enable();
  void disable();               ///< Controller Reset: all but AQA, ASQ, ACQ
  std::uint32_t status() const; ///< CSTS
  void fail();                  ///< Controller Fatal Status, until the next reset
  bool execute_next();
  void execute(unsigned queue, const SubmissionEntry& command);
  void end(unsigned queue, const SubmissionEntry& command, Ended ended);
  void complete(unsigned queue, const SubmissionEntry& command, Outcome outcome);
  bool settle();
  void report_events();
  std::uint64_t capabilities() const;

  const Shape& shape_;
  const Faults& faults_;
  Interrupts& interrupts_;
  Doorbells& doorbells_;
  Flusher& flusher_;
  Events events_;
  Features features_;
  Logs logs_;
  Queues queues_;
  UnsettledCommands unsettled_;
  AdminCommands admin_;
  IoCommands io_;
  std::uint32_t configuration_ = 0, status_ = 0, interrupt_mask_ = 0, admin_attributes_ = 0;
  std::uint64_t admin_sq_ = 0, admin_cq_ = 0;
  std::shared_ptr<const FlushResult> shutdown_flush_; ///< a shutdown completes with it
  unsigned cursor_ = 0;                               ///< the queue served last: the next round starts behind it
  ControllerCounters counters_;
};

} // namespace smartio::sim::nvme
