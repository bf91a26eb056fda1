// A device under exercise: what a driver for it must be able to do. One class for each kind of device.
#pragma once

#include "access.hpp"

#include <memory>
#include <optional>
#include <string_view>

namespace exercise {

class Subject {
public:
  virtual ~Subject() = default;

  /// Brings the device from its reset state to work, with vector 0 on. Checks registers that every such device has.
  virtual Result<void> start() = 0;

  /// Whether registers are as a reset leaves them.
  virtual Result<void> check_reset() { return {}; }

  // Each judges memory, not what the device says of itself. False: such a device cannot do that.
  virtual Result<bool> device_writes_memory(std::uint32_t seed) = 0;
  virtual Result<bool> device_reads_memory(std::uint32_t seed) = 0;

  /// Makes the device raise vector 0, within 5 s.
  virtual Result<void> raise_interrupt() = 0;
  /// Makes it stop doing so, where it does not by itself.
  virtual Result<void> acknowledge_interrupt() { return {}; }
};

/// KIND: nvme, edu, e1000e (and e1000), igb, igbvf. Errc::bad_request for another.
Result<std::unique_ptr<Subject>> make_subject(std::string_view kind, const smartio::Device& device);

std::unique_ptr<Subject> make_nvme(const smartio::Device& device, smartio::BarMapping bar);
std::unique_ptr<Subject> make_edu(const smartio::Device& device, smartio::BarMapping bar);
enum class Gigabit { e1000e, igb, igbvf };
std::unique_ptr<Subject> make_gigabit(const smartio::Device& device, smartio::BarMapping bar, Gigabit model);

} // namespace exercise
