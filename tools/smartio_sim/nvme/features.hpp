// Set Features and Get Features (1.4, 5.21 and 5.15): the values, their defaults and their checks. Nothing is saved.
// Pure.
#pragma once

#include "shape.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

namespace smartio::sim::nvme {

namespace feature {
inline constexpr std::uint8_t arbitration = 0x01, power_management = 0x02, temperature_threshold = 0x04,
                              error_recovery = 0x05, write_cache = 0x06, queues = 0x07, interrupt_coalescing = 0x08,
                              vector_configuration = 0x09, write_atomicity = 0x0a, event_configuration = 0x0b;
}

class Features {
public:
  explicit Features(const Shape& shape, std::uint32_t namespaces)
      : vectors_(std::max(1U, shape.vectors)), namespaces_(namespaces) {}

  /// `have_io_queues`: I/O queues exist already, so their number is settled.
  Outcome set(const SubmissionEntry& command, bool have_io_queues);
  Outcome get(const SubmissionEntry& command) const;

  bool write_cache() const noexcept { return plain_[feature::write_cache] != 0; }
  std::uint16_t over_temperature() const noexcept { return over_; }
  std::uint16_t under_temperature() const noexcept { return under_; }
  /// The temperature is past a threshold and the host wants to hear of it.
  bool temperature_event() const noexcept;
  void reset() { *this = initial(); }

private:
  Outcome set_temperature(std::uint32_t value);
  Outcome set_vector(std::uint32_t value);
  Outcome value_of(std::uint8_t id, std::uint32_t cdw11) const;

  Features initial() const { return Features(vectors_, namespaces_); }
  Features(unsigned vectors, std::uint32_t namespaces) : vectors_(vectors), namespaces_(namespaces) {}
  std::optional<Status> refuse(std::uint8_t id, std::uint32_t nsid) const;

  unsigned vectors_; ///< that interrupts can have: MSI-X, or the one of INTx
  std::uint32_t namespaces_;
  std::array<std::uint32_t, 16> plain_{0, 0, 0, 0, 0, 0, 1}; ///< by feature id; write cache on
  std::vector<bool> coalescing_off_ = std::vector<bool>(vectors_);
  std::uint16_t over_ = warning_temperature, under_ = 0;
};

} // namespace smartio::sim::nvme
