// Physical Region Pages: from the two fields of a command to the memory they mean (1.4, 4.3).
#pragma once

#include "pci/guest_memory.hpp"
#include "spec.hpp"

namespace smartio::sim::nvme {

/// Appends to `pieces` where the `bytes` (at most max_transfer) of a command's data are; follows lists and chained
/// lists. Errors: invalid_prp_offset; data_transfer_error when a list or the memory itself cannot be reached. Reads
/// each list entry once; the number of lists read is bounded by `bytes`.
Status locate_prps(const GuestMemory& memory, std::uint64_t prp1, std::uint64_t prp2, std::uint64_t bytes,
                   Access access, std::vector<iovec>& pieces);

/// Copies to or from the command's data through this process, for the small structures of admin commands.
Status write_prps(GuestMemory& memory, const SubmissionEntry& command, std::span<const std::byte> data);
Status read_prps(const GuestMemory& memory, const SubmissionEntry& command, std::span<std::byte> data);

} // namespace smartio::sim::nvme
