// Single changes of the driver of a function, through sysfs. Private to this folder.
#pragma once

#include "pci.hpp"
#include "system.hpp"

#include <optional>
#include <string>

namespace smartio::vfio::host {

inline constexpr std::string_view vfio_driver = "vfio-pci";

/// Each call blocks for at most `system.patience` (bind: twice that). Errc::timed_out: the kernel is still at it, and
/// the change may yet be made.
class Drivers {
public:
  Drivers(Root root, System system) : root_(std::move(root)), system_(std::move(system)) {}

  std::optional<std::string> driver_of(const Bdf& bdf) const;
  Result<std::optional<std::string>> override_of(const Bdf& bdf) const;
  bool present(const Bdf& bdf) const;
  /// Which kind of function is there: its ids and class; nullopt when they cannot be read now.
  std::optional<std::string> identity_of(const Bdf& bdf) const;

  Result<void> load_vfio() const; ///< Errc::wrong_state if there is no vfio-pci then
  Result<void> set_override(const Bdf& bdf, const std::optional<std::string>& driver) const;
  Result<void> unbind(const Bdf& bdf) const; ///< returns when the driver has let go of the function
  /// Binds a function without driver. Otherwise an error; if another driver took it, it names that.
  Result<void> bind(const Bdf& bdf, const std::string& driver) const;

private:
  Error still_held(const Bdf& bdf, const std::string& doing) const; ///< names who holds it, as far as /proc tells
  Result<void> write(const std::string& path, const std::string& text) const;
  Root root_;
  System system_;
};

} // namespace smartio::vfio::host
