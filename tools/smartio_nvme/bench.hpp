// Random I/O against a device, measured.
#pragma once

#include "driver.hpp"

#include <array>
#include <optional>

namespace nvme {

struct Workload {
  bool write = false;
  std::uint64_t bytes = 4096;                     ///< a command: a multiple of the block size, at most max_transfer
  std::uint64_t depth = 1;                        ///< commands under way at once
  std::optional<std::uint64_t> seconds, commands; ///< when to stop; 5 seconds if neither is given
};

/// Latencies in nanoseconds, kept to 1/256 of their value.
class Latencies {
public:
  void add(std::uint64_t nanoseconds) noexcept;
  std::uint64_t count() const noexcept { return count_; }
  std::uint64_t min() const noexcept { return count_ == 0 ? 0 : min_; }
  std::uint64_t max() const noexcept { return max_; }
  std::uint64_t percentile(double percent) const noexcept; ///< 0 if there are none

private:
  std::array<std::uint64_t, 57 * 256> buckets_{};
  std::uint64_t count_ = 0, min_ = UINT64_MAX, max_ = 0;
};

struct Measured {
  double seconds = 0;
  Latencies latencies;
};

/// Runs the workload over the whole namespace. `write` overwrites what is there.
smartio::Result<std::unique_ptr<Measured>> run_bench(Driver& driver, const Workload& workload);

} // namespace nvme
