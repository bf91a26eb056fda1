// What was verified of a device, and what holds of every device's registers.
#pragma once

#include "access.hpp"

namespace exercise {

struct Report {
  std::string device, kind;
  unsigned vectors = 0;
  std::size_t mapped_bytes = 0;  ///< of BAR 0
  bool table_is_trapped = false; ///< the MSI-X table can be read, and is not mapped
  bool device_writes_memory = false, device_reads_memory = false, interrupts = false, reset = false;
};

/// BAR 0 gives the same when loaded where it is mapped and when read; the MSI-X table is mapped nowhere, and read.
Result<void> look_at_registers(const smartio::Device& device, Report& report);

std::string to_json(const Report& report, bool all_held);

} // namespace exercise
