#include "prp.hpp"

#include <algorithm>
#include <array>

namespace smartio::sim::nvme {

namespace {

struct Segment {
  std::uint64_t address, bytes;
};

/// Reads the entries of one list page from `list` on and leaves in it the address of the next list, if one is needed.
Status walk_list(const GuestMemory& memory, std::uint64_t& list, std::uint64_t& bytes, auto&& segment) {
  std::array<std::uint64_t, page_size / 8> entries;
  const std::uint64_t slots = (page_size - list % page_size) / 8;
  const std::uint64_t pages = (bytes + page_size - 1) / page_size;
  const bool chained = pages > slots;
  const std::uint64_t count = chained ? slots - 1 : pages;
  const auto wanted = std::span(entries).first(chained ? slots : pages);
  if (!memory.read(list, std::as_writable_bytes(wanted))) return Status::data_transfer_error;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (entries[i] % page_size != 0) return Status::invalid_prp_offset;
    const Segment next{entries[i], std::min<std::uint64_t>(bytes, page_size)};
    if (const Status status = segment(next); status != Status::success) return status;
    bytes -= next.bytes;
  }
  if (chained) list = entries[slots - 1];
  return chained && list % page_size != 0 ? Status::invalid_prp_offset : Status::success;
}

/// Calls `segment` for each piece in order until it fails.
Status walk(const GuestMemory& memory, std::uint64_t prp1, std::uint64_t prp2, std::uint64_t bytes, auto&& segment) {
  if (prp1 % 4 != 0) return Status::invalid_prp_offset;
  const Segment first{prp1, std::min<std::uint64_t>(bytes, page_size - prp1 % page_size)};
  if (const Status status = segment(first); status != Status::success) return status;
  bytes -= first.bytes;
  if (bytes == 0) return Status::success;
  if (bytes <= page_size) return prp2 % page_size != 0 ? Status::invalid_prp_offset : segment(Segment{prp2, bytes});
  if (prp2 % 8 != 0) return Status::invalid_prp_offset;
  std::uint64_t list = prp2;
  while (bytes > 0) {
    if (const Status status = walk_list(memory, list, bytes, segment); status != Status::success) return status;
  }
  return Status::success;
}

} // namespace

Status locate_prps(const GuestMemory& memory, std::uint64_t prp1, std::uint64_t prp2, std::uint64_t bytes,
                   Access access, std::vector<iovec>& pieces) {
  return walk(memory, prp1, prp2, bytes, [&memory, &pieces, access](const Segment& segment) {
    return memory.locate(segment.address, segment.bytes, access, pieces) ? Status::success
                                                                         : Status::data_transfer_error;
  });
}

Status write_prps(GuestMemory& memory, const SubmissionEntry& command, std::span<const std::byte> data) {
  return walk(memory, command.prp1, command.prp2, data.size(), [&memory, &data](const Segment& segment) {
    const bool written = memory.write(segment.address, data.first(segment.bytes));
    data = data.subspan(segment.bytes);
    return written ? Status::success : Status::data_transfer_error;
  });
}

Status read_prps(const GuestMemory& memory, const SubmissionEntry& command, std::span<std::byte> data) {
  return walk(memory, command.prp1, command.prp2, data.size(), [&memory, &data](const Segment& segment) {
    const bool read = memory.read(segment.address, data.first(segment.bytes));
    data = data.subspan(segment.bytes);
    return read ? Status::success : Status::data_transfer_error;
  });
}

} // namespace smartio::sim::nvme
