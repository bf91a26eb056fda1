// Admin commands (1.4, 5): checks them, and carries them out on queues, features, logs and events.
#pragma once

#include "features.hpp"
#include "identify.hpp"
#include "logs.hpp"
#include "prp.hpp"
#include "queues.hpp"
#include "unsettled.hpp"

#include <optional>

namespace smartio::sim::nvme {

class AdminCommands {
public:
  AdminCommands(GuestMemory& memory, Queues& queues, Features& features, Logs& logs, Events& events,
                UnsettledCommands& unsettled, const Identity& identity, const Shape& shape)
      : memory_(memory), queues_(queues), features_(features), logs_(logs), events_(events), unsettled_(unsettled),
        identity_(identity), shape_(shape) {}

  /// How the command ended; none for an asynchronous event request, which ends later.
  std::optional<Ended> execute(const SubmissionEntry& command);

  void set_configuration(std::uint32_t cc) { cc_ = cc; } ///< CC: the entry sizes that I/O queues need

private:
  Status create_completion_queue(const SubmissionEntry& command);
  Status create_submission_queue(const SubmissionEntry& command);
  Status delete_completion_queue(const SubmissionEntry& command);
  Status delete_submission_queue(const SubmissionEntry& command);
  Status identify(const SubmissionEntry& command);
  Status get_log_page(const SubmissionEntry& command);
  Status check_queue(const SubmissionEntry& command, std::uint32_t entry_size, std::uint32_t wanted_size) const;
  Outcome abort(const SubmissionEntry& command);
  Ended set_features(const SubmissionEntry& command);

  GuestMemory& memory_;
  Queues& queues_;
  Features& features_;
  Logs& logs_;
  Events& events_;
  UnsettledCommands& unsettled_;
  const Identity& identity_;
  const Shape& shape_;
  std::uint32_t cc_ = 0;
};

} // namespace smartio::sim::nvme
