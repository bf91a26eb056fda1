// Commands that were fetched and are not done yet: those that zero blocks, which is done in pieces so that the event
// loop goes on; those that wait for the medium (Flush, writes without a write cache, Force Unit Access); and those
// whose completion is late by an injected fault.
#pragma once

#include "flusher.hpp"
#include "spec.hpp"

#include <chrono>
#include <deque>
#include <optional>
#include <vector>

namespace smartio::sim::nvme {

/// How a command ended, or will have once its blocks are zeroed and (`settle`) the store is flushed.
struct Ended {
  Outcome outcome{};
  bool settle = false;
  bool deallocate = false; ///< how to zero
  std::vector<Blocks> zero{};

  bool done() const noexcept { return !settle && zero.empty(); }
};

class UnsettledCommands {
public:
  using Clock = std::chrono::steady_clock;
  /// While there are as many, no further command is fetched.
  static constexpr std::size_t limit = 4096;
  static constexpr std::uint64_t piece = 4 << 20; ///< zeroed at once, in bytes

  UnsettledCommands(Flusher& flusher, Store& store) : flusher_(flusher), store_(store) {}

  struct Command {
    unsigned queue;
    SubmissionEntry entry;
    Outcome outcome;
  };
  /// Completes not before `due`.
  void add(unsigned queue, const SubmissionEntry& entry, Ended ended, Clock::time_point due);
  /// Carries all of them on by at most one piece; says whether there was one.
  bool advance();
  /// The next that has ended, in the order of their arrival, and is due.
  std::optional<Command> take(Clock::time_point now);
  /// Takes what is left of a queue that is about to be deleted.
  std::optional<Command> take_from(unsigned queue);
  void forget() { commands_.clear(); } ///< a reset

  std::size_t size() const noexcept { return commands_.size(); }
  bool settling() const noexcept; ///< some wait for the store, not just for their time

private:
  struct Waiting {
    Command command;
    Ended left;
    Clock::time_point due;
    std::shared_ptr<const FlushResult> flush{};
    bool done() const noexcept { return left.done() && !flush; }
  };
  bool step(Waiting& waiting, bool may_zero);
  void zero_piece(Waiting& waiting);

  Flusher& flusher_;
  Store& store_;
  std::deque<Waiting> commands_;
};

} // namespace smartio::sim::nvme
