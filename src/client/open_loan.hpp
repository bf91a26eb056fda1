// Opening the device of a loan.
#pragma once

#include <chrono>
#include <memory>
#include <smartio/device.hpp>
#include <string>

namespace smartio {

namespace detail {
/// What a program's device is a loan of. Let go with its last reference.
struct Loan {
  explicit Loan(DeviceInfo device) : info(std::move(device)) {}
  virtual ~Loan() = default;
  virtual Result<void> can_give_back() const = 0; ///< Errc::wrong_state: not from here
  /// Blocks until it has ended; the program uses it no more. False: another program of this host keeps it.
  virtual Result<bool> give_back() = 0;
  virtual Result<Ended> ended() = 0; ///< blocks until it is known; asked once the device cannot be used any more
  const DeviceInfo info;
};
} // namespace detail

/// As open_device, on a socket path, of a device that is a loan. `loan` is released when the device and everything made
/// from it are gone and its connection is closed; at once if this fails.
Result<Device> open_loan(const std::string& socket_path, std::chrono::milliseconds timeout,
                         std::shared_ptr<detail::Loan> loan);

} // namespace smartio
