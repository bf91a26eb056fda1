// What the controller remembers for its log pages (1.4, 5.14.1): errors, health counters, and the fixed pages. Pure.
#pragma once

#include "spec.hpp"

#include <array>
#include <cstddef>
#include <deque>
#include <vector>

namespace smartio::sim::nvme {

/// What the health page counts.
struct HealthCounters {
  std::uint64_t units_read = 0, units_written = 0; ///< of 512 bytes
  std::uint64_t reads = 0, writes = 0;             ///< commands
  std::uint64_t errors = 0;                        ///< entries ever made in the error log
};

class Logs {
public:
  HealthCounters health;

  void add_error(std::uint16_t queue, const SubmissionEntry& command, Status status, bool phase);

  // Whole pages.
  std::vector<std::byte> error_page() const; ///< newest first, error_log_entries entries
  std::vector<std::byte> health_page(std::uint16_t over, std::uint16_t under) const; ///< thresholds in kelvin
  static std::vector<std::byte> firmware_page();
  static std::vector<std::byte> effects_page();

private:
  std::deque<std::array<std::byte, 64>> errors_;
};

} // namespace smartio::sim::nvme
