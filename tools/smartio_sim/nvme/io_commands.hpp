// I/O commands (1.4, 6): checks them and moves data between the client's memory and the store.
#pragma once

#include "features.hpp"
#include "logs.hpp"
#include "prp.hpp"
#include "store.hpp"

namespace smartio::sim::nvme {

class IoCommands {
public:
  IoCommands(GuestMemory& memory, Store& store, const Features& features, Logs& logs)
      : memory_(memory), store_(store), features_(features), logs_(logs) {}

  /// How a command went; with `settle` that holds only once a flush has brought what was written to the medium.
  struct Ended {
    Status status;
    bool settle = false;
  };
  Ended execute(const SubmissionEntry& command);

private:
  struct Blocks {
    std::uint64_t first, count;
  };
  bool in_namespace(Blocks blocks) const;
  Status locate(const SubmissionEntry& command, Blocks blocks, Access access);
  Status read(const SubmissionEntry& command, Blocks blocks);
  Status write(const SubmissionEntry& command, Blocks blocks);
  Status compare(const SubmissionEntry& command, Blocks blocks);
  Status write_zeroes(const SubmissionEntry& command, Blocks blocks);
  Status dataset_management(const SubmissionEntry& command);
  bool settles(const SubmissionEntry& command) const;

  GuestMemory& memory_;
  Store& store_;
  const Features& features_;
  Logs& logs_;
  std::vector<iovec> pieces_;           // kept to save allocations
  std::vector<std::byte> left_, right_; // for compare
};

} // namespace smartio::sim::nvme
