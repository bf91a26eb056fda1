// I/O commands (1.4, 6): checks them and moves data between the client's memory and the store.
#pragma once

#include "features.hpp"
#include "identify.hpp"
#include "logs.hpp"
#include "prp.hpp"
#include "unsettled.hpp"

namespace smartio::sim::nvme {

class IoCommands {
public:
  IoCommands(GuestMemory& memory, Store& store, Flusher& flusher, const Features& features, Logs& logs,
             const Identity& identity)
      : memory_(memory), store_(store), flusher_(flusher), features_(features), logs_(logs), identity_(identity) {}

  Ended execute(const SubmissionEntry& command);

private:
  bool in_namespace(Blocks blocks) const;
  Ended transfer(const SubmissionEntry& command, Blocks blocks);
  Status locate(const SubmissionEntry& command, Blocks blocks, Access access);
  Status read(const SubmissionEntry& command, Blocks blocks);
  Status write(const SubmissionEntry& command, Blocks blocks);
  Status compare(const SubmissionEntry& command, Blocks blocks);
  Ended dataset_management(const SubmissionEntry& command);
  std::uint64_t start_of(std::uint32_t nsid) const { return (nsid - namespace_id) * identity_.blocks; }
  bool settles(const SubmissionEntry& command) const;

  GuestMemory& memory_;
  Store& store_;
  Flusher& flusher_;
  const Features& features_;
  Logs& logs_;
  const Identity& identity_;
  std::vector<iovec> pieces_;           // kept to save allocations
  std::vector<std::byte> left_, right_; // for compare
};

} // namespace smartio::sim::nvme
