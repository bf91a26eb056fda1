// Commands that are done but for the medium: Flush, and writes with Force Unit Access or without a write cache. They
// complete when the flush they wait for has ended.
#pragma once

#include "flusher.hpp"
#include "logs.hpp"
#include "queues.hpp"

#include <deque>

namespace smartio::sim::nvme {

class UnsettledCommands {
public:
  /// While there are as many, no further command is fetched.
  static constexpr std::size_t limit = 4096;

  UnsettledCommands(Flusher& flusher, Queues& queues) : flusher_(flusher), queues_(queues) {}

  void add(unsigned queue, const SubmissionEntry& command);
  /// Completes what has settled, in order; false when a completion cannot be posted, which is fatal.
  bool complete(Logs& logs);
  /// The queue is about to be deleted: its commands complete as aborted by that; false as above.
  bool abort(unsigned queue);
  void forget() { commands_.clear(); } ///< a reset
  std::size_t size() const noexcept { return commands_.size(); }

private:
  struct Waiting {
    unsigned queue;
    SubmissionEntry command;
    std::shared_ptr<const FlushResult> flush;
  };
  Flusher& flusher_;
  Queues& queues_;
  std::deque<Waiting> commands_; ///< in the order of their flushes
};

} // namespace smartio::sim::nvme
