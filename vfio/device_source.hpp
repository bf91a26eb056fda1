// Where a lent device comes from: what opens it, again for each loan.
#pragma once

#include "device.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <smartio/error.hpp>
#include <string>

namespace smartio {

/// For clients of a loan to let go of the device's registers.
inline constexpr std::chrono::milliseconds client_patience{500};

/// A device as it is while it is open.
struct OpenedDevice {
  std::shared_ptr<vfio::Device> device;
  /// Ends what is under way; calls back once nothing of it is open any more, possibly before it returns.
  std::move_only_function<void(std::move_only_function<void()> closed)> close;
  /// Sets who is called when the device reports an error that nothing corrects (VFIO's ERR: AER, fatal). May be empty.
  std::function<void(std::move_only_function<void()>)> on_error{};
  std::function<std::string()> why_lost{}; ///< once it is: what happened, in more words than the source has; or empty
  std::string interface, driver;           ///< how it is driven (vfio-user, type1, iommufd), and by which driver
  std::optional<unsigned> iommu_group;
  bool filters_config = false; ///< a borrower's configuration writes need an allow-list
  /// Only a reset clears what a borrower left in it: why it is not lent without one. Empty: it is.
  std::string needs_reset{};
};

struct DeviceSource {
  using Opened = std::move_only_function<void(Result<OpenedDevice>)>;
  std::function<void(Opened)> open; ///< Errc::busy: somebody else still has it
  std::string lost;                 ///< what has happened when a device is lost
  /// Who else has the device, as a phrase; "" where that cannot be told. May be empty.
  std::function<void(std::move_only_function<void(std::string)>)> holders{};
  /// What is not there may be in a moment: a device's server may end after each client, and be started again.
  bool comes_back = false;
};

} // namespace smartio
