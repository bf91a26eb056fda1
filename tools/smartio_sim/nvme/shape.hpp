// In what controllers of this model may differ from each other, and where that puts things in BAR 0. Pure.
#pragma once

#include "spec.hpp"

namespace smartio::sim::nvme {

struct Shape {
  unsigned vectors = io_queues + 1;   ///< MSI-X, at most 2048; 0: no MSI-X, INTx only
  std::uint32_t queue_entries = 1024; ///< at most, of an I/O queue: CAP.MQES + 1; 2 to 65536
  unsigned doorbell_stride = 0;       ///< CAP.DSTRD: doorbells are 4 << doorbell_stride bytes apart; at most 15

  constexpr std::uint64_t doorbells_size() const {
    return whole_pages(std::uint64_t{8} * (io_queues + 1) << doorbell_stride);
  }
  constexpr std::uint64_t doorbells_end() const { return register_offset::doorbells + doorbells_size(); }
  constexpr std::uint64_t msix_table() const { return doorbells_end(); }
  constexpr std::uint64_t msix_pending() const {
    return msix_table() + whole_pages(std::uint64_t{16} * (vectors == 0 ? 1 : vectors));
  }
  constexpr std::uint64_t bar_size() const { return std::bit_ceil(msix_pending() + page_size); }
};

} // namespace smartio::sim::nvme
