// PCI ids to lspci's words, by libpci and its database.
#pragma once

#include <cstdint>
#include <string>

namespace smartio::vfio {

/// "Non-Volatile memory controller: Intel Corporation Device f1a5"; numbers stand where the database has no name,
/// and for all names if it cannot be read to its end.
std::string pci_name(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code);

/// Why the database cannot be read, for whoever asks first after a name; "" if it can be, or is not there.
std::string take_names_problem();

} // namespace smartio::vfio
