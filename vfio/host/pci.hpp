// PCI functions of this host as sysfs describes them. Reads only. Who uses a function is in_use.hpp's; whether it may
// be lent, lendable.hpp's.
#pragma once

#include "bdf.hpp"
#include "sysfs.hpp"

#include <smartio/error.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::vfio::host {

struct Function {
  Bdf bdf;
  std::uint16_t vendor = 0, device = 0, subsystem_vendor = 0, subsystem_device = 0;
  std::uint32_t class_code = 0; ///< class, subclass and programming interface: 0x010802
  std::uint8_t revision = 0;
  std::optional<std::string> driver; ///< nullopt: no driver is bound
  std::optional<std::uint32_t> iommu_group;
  std::vector<Bdf> group_members; ///< every PCI function of the group, this one included, sorted
  /// In the order the kernel tries them: "flr", "pm", "bus" ... Kernels before 5.15 do not name it: "reset".
  std::vector<std::string> reset_methods;
  std::array<std::uint64_t, 6> bar_size{};   ///< bytes; 0 also for the upper half of a 64-bit BAR
  bool boot_vga = false;                     ///< the firmware's screen
  std::optional<Bdf> physical_function;      ///< this is a virtual function of that one
  std::uint32_t virtual_functions = 0;       ///< how many of its virtual functions are enabled
  std::optional<std::uint32_t> msix_vectors; ///< nullopt also when config space beyond 64 bytes cannot be read
  std::optional<std::string> serial_number;  ///< device_serial_number; nullopt also when extended space cannot be read

  /// Of any kind, host bridges too; but not the "other" ones, as which the ends of non-transparent bridges show: these
  /// are endpoints (PCI Code and ID Assignment Specification 1.11, 1.7).
  bool is_bridge() const noexcept { return class_code >> 16 == 0x06 && class_code >> 8 != 0x0680; }
  bool is_pci_bridge() const noexcept { return class_code >> 8 == 0x0604; } ///< PCI to PCI
  bool is_display() const noexcept { return class_code >> 16 == 0x03; }
};

std::string folder_of(const Root& root, const Bdf& bdf); ///< of its sysfs attributes
std::string short_name(const Bdf& bdf);                  ///< as lspci prints it: without the domain if that is 0

Result<std::vector<Bdf>> list_functions(const Root& root); ///< sorted
/// Does not wait for a driver that is just coming or going (so it does not read driver_override, which does).
/// Errc::no_such_device if there is none, Errc::bad_request if sysfs does not say what it is.
Result<Function> read_function(const Root& root, const Bdf& bdf);
/// 64, 256 or 4096 bytes; 64 when the reader may see no more (the rest needs CAP_SYS_ADMIN). Reads from the device, so
/// it may block while that is being reset.
Result<std::vector<std::byte>> read_config(const Root& root, const Bdf& bdf);
/// Of an NVMe controller: its serial number, as its driver was told. Printable characters only.
std::optional<std::string> nvme_serial(const Root& root, const Bdf& bdf);
bool has_vpd(const Root& root, const Bdf& bdf); ///< vital product data, as far as the kernel knows without reading it
/// The serial number there; nullopt also if it cannot be read, or not in 2 s. Blocks as long: some devices are slow,
/// and broken ones let the kernel wait for each word. The read is done in a child, which ends soon after; until then
/// the function cannot be pulled out.
std::optional<std::string> vpd_serial(const Root& root, const Bdf& bdf);
/// The one function that `text` names, in any form `lspci -s` takes. Errc::no_such_device: there is none;
/// Errc::bad_request: no such form, or several match (they are named).
Result<Bdf> find_function(const Root& root, std::string_view text);

} // namespace smartio::vfio::host
