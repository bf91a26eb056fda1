#include "queues.hpp"

#include <algorithm>

namespace smartio::sim::nvme {

namespace {

bool is_full(const CompletionQueue& queue) { return (queue.tail + 1) % queue.entries == queue.head; }

} // namespace

void Queues::create_completion(unsigned id, std::uint64_t address, std::uint32_t entries,
                               std::optional<unsigned> vector) {
  doorbells_.clear_cq(id);
  cqs_[id] = CompletionQueue{address, entries, vector.has_value(), vector.value_or(0)};
  highest_ = std::max(highest_, id);
}

void Queues::create_submission(unsigned id, std::uint64_t address, std::uint32_t entries, unsigned completion_queue) {
  doorbells_.clear_sq(id);
  sqs_[id] = SubmissionQueue{address, entries, completion_queue};
  ++cqs_[completion_queue]->users;
  highest_ = std::max(highest_, id);
}

void Queues::delete_submission(unsigned id) {
  --cqs_[sqs_[id]->completion_queue]->users;
  sqs_[id].reset();
}

void Queues::delete_completion(unsigned id) { cqs_[id].reset(); }

void Queues::reset() {
  for (auto& queue : sqs_) queue.reset();
  for (auto& queue : cqs_) queue.reset();
  highest_ = 0;
  doorbells_.clear();
}

bool Queues::have_io_queues() const {
  for (unsigned id = 1; id <= highest_; ++id) {
    if (sqs_[id] || cqs_[id]) return true;
  }
  return false;
}

void Queues::scan() {
  for (unsigned id = 0; id <= highest_; ++id) {
    if (cqs_[id]) scan(id, *cqs_[id]);
    if (sqs_[id]) scan(id, *sqs_[id]);
  }
}

void Queues::scan(unsigned id, SubmissionQueue& queue) {
  const std::uint32_t value = doorbells_.sq_tail(id);
  if (value == queue.doorbell) return;
  queue.doorbell = value;
  if (value < queue.entries) {
    queue.tail = value;
  } else {
    events_.raise(ErrorEvent::invalid_doorbell_value);
  }
}

void Queues::scan(unsigned id, CompletionQueue& queue) {
  const std::uint32_t value = doorbells_.cq_head(id);
  if (value == queue.doorbell) return;
  queue.doorbell = value;
  const auto ahead = [&queue](std::uint32_t index) { return (index + queue.entries - queue.head) % queue.entries; };
  if (value < queue.entries && ahead(value) <= ahead(queue.tail)) { // takes no more than was posted
    queue.head = value;
  } else {
    events_.raise(ErrorEvent::invalid_doorbell_value);
  }
}

bool Queues::ready(unsigned id) const {
  if (!sqs_[id] || sqs_[id]->head == sqs_[id]->tail) return false;
  const CompletionQueue& queue = *cqs_[sqs_[id]->completion_queue];
  return queue.waiting.empty() && !is_full(queue);
}

bool Queues::fetch(unsigned id, SubmissionEntry& entry) {
  SubmissionQueue& queue = *sqs_[id];
  const std::uint64_t address = queue.address + std::uint64_t{queue.head} * sizeof entry;
  if (!memory_.read(address, std::as_writable_bytes(std::span(&entry, 1)))) return false;
  queue.head = (queue.head + 1) % queue.entries;
  return true;
}

bool Queues::complete(unsigned sq, std::uint16_t command_id, Outcome outcome) {
  CompletionQueue& queue = *cqs_[sqs_[sq]->completion_queue];
  const CompletionEntry entry{outcome.result,
                              0,
                              static_cast<std::uint16_t>(sqs_[sq]->head),
                              static_cast<std::uint16_t>(sq),
                              command_id,
                              status_field(outcome.status)};
  if (queue.waiting.empty() && !is_full(queue)) return post(queue, entry);
  queue.waiting.push_back(entry);
  return true;
}

bool Queues::post(CompletionQueue& queue, const CompletionEntry& entry) {
  CompletionEntry posted = entry;
  posted.status = static_cast<std::uint16_t>(posted.status | (queue.phase ? 1 : 0));
  if (!memory_.post(queue.address + std::uint64_t{queue.tail} * sizeof posted,
                    std::as_bytes(std::span<const CompletionEntry, 1>(&posted, 1))))
    return false;
  queue.tail = (queue.tail + 1) % queue.entries;
  if (queue.tail == 0) queue.phase = !queue.phase;
  queue.signal = true;
  return true;
}

bool Queues::post_waiting() {
  for (unsigned id = 0; id <= highest_; ++id) {
    if (!cqs_[id]) continue;
    CompletionQueue& queue = *cqs_[id];
    while (!queue.waiting.empty() && !is_full(queue)) {
      if (!post(queue, queue.waiting.front())) return false;
      queue.waiting.pop_front();
    }
  }
  return true;
}

void Queues::signal(bool masked, bool lost) {
  bool line = false;
  for (unsigned id = 0; id <= highest_; ++id) {
    if (!cqs_[id] || !cqs_[id]->interrupts) continue;
    CompletionQueue& queue = *cqs_[id];
    line = line || queue.head != queue.tail;
    if (std::exchange(queue.signal, false) && !lost) interrupts_.trigger(queue.vector);
  }
  interrupts_.set_line(line && !masked && !lost && !interrupts_.msix());
}

bool Queues::phase(unsigned sq) const { return cqs_[sqs_[sq]->completion_queue]->phase; }

} // namespace smartio::sim::nvme
