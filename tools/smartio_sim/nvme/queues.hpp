// The submission and completion queues (1.4, 4.1): where they are, how full they are, fetching entries and posting
// them. Doorbell values come from memory the client writes at any time, so each is checked before it is believed. What
// the commands mean is not known here.
#pragma once

#include "doorbells.hpp"
#include "events.hpp"
#include "pci/guest_memory.hpp"
#include "pci/interrupts.hpp"

#include <array>
#include <deque>
#include <optional>

namespace smartio::sim::nvme {

struct SubmissionQueue {
  std::uint64_t address = 0; ///< of the client's memory, page aligned
  std::uint32_t entries = 0;
  unsigned completion_queue = 0;
  std::uint32_t head = 0, tail = 0;
  std::uint32_t doorbell = 0; ///< last value seen
};

struct CompletionQueue {
  std::uint64_t address = 0;
  std::uint32_t entries = 0;
  bool interrupts = false;
  unsigned vector = 0;
  std::uint32_t head = 0, tail = 0;
  bool phase = true;
  std::uint32_t doorbell = 0;
  bool signal = false;                 ///< entries were posted since the vector last fired
  unsigned users = 0;                  ///< submission queues that complete here
  std::deque<CompletionEntry> waiting; ///< completions that found the queue full; bounded by the commands under way
};

class Queues {
public:
  Queues(GuestMemory& memory, Interrupts& interrupts, Doorbells& doorbells, Events& events)
      : memory_(memory), interrupts_(interrupts), doorbells_(doorbells), events_(events) {}

  // Queue 0 is the admin queue. `entries` is 2 to 65536; addresses are page aligned.
  void create_completion(unsigned id, std::uint64_t address, std::uint32_t entries, std::optional<unsigned> vector);
  void create_submission(unsigned id, std::uint64_t address, std::uint32_t entries, unsigned completion_queue);
  void delete_submission(unsigned id);
  void delete_completion(unsigned id);
  void reset(); ///< no queues, all doorbells 0

  const SubmissionQueue* submission(unsigned id) const { return id <= io_queues && sqs_[id] ? &*sqs_[id] : nullptr; }
  const CompletionQueue* completion(unsigned id) const { return id <= io_queues && cqs_[id] ? &*cqs_[id] : nullptr; }
  bool have_io_queues() const;

  /// Takes in all doorbells. A value that cannot be is reported as an event and leaves the queue as it was.
  void scan();
  /// Whether a command waits in this queue and its completion would find room.
  bool ready(unsigned id) const;
  /// The next command of a ready queue; false when its memory cannot be read, which is fatal.
  bool fetch(unsigned id, SubmissionEntry& entry);
  /// Posts a completion, or keeps it until there is room; false when the memory cannot be written, which is fatal.
  bool complete(unsigned sq, std::uint16_t command_id, Outcome outcome);
  /// Posts what waited for room; false as above.
  bool post_waiting();
  /// Fires the vectors of all queues that got entries, and sets the INTx line (off while `masked`). What would fire
  /// while interrupts are `lost` never does.
  void signal(bool masked, bool lost);

  bool phase(unsigned sq) const; ///< of the next completion, for the error log

private:
  bool post(CompletionQueue& queue, const CompletionEntry& entry);
  void scan(unsigned id, SubmissionQueue& queue);
  void scan(unsigned id, CompletionQueue& queue);

  GuestMemory& memory_;
  Interrupts& interrupts_;
  Doorbells& doorbells_;
  Events& events_;
  std::array<std::optional<SubmissionQueue>, io_queues + 1> sqs_;
  std::array<std::optional<CompletionQueue>, io_queues + 1> cqs_;
  unsigned highest_ = 0; ///< no queue has a higher id
};

} // namespace smartio::sim::nvme
