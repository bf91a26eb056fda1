#include "names.hpp"

#include <array>
#include <cstdlib>
#include <memory>

extern "C" {
#include <pci/pci.h>
}

namespace smartio::vfio {

namespace {

void quiet(char*, ...) {}
__attribute__((noreturn)) void out_of_memory(char*, ...) { std::abort(); } // the type libpci asks for

/// Only the names are wanted: pci_init would look for devices, and end the process where it may not. What it would set
/// that looking up names needs are the reporting functions.
std::unique_ptr<pci_access, decltype(&pci_cleanup)> open_names() {
  std::unique_ptr<pci_access, decltype(&pci_cleanup)> access(pci_alloc(), &pci_cleanup);
  access->error = out_of_memory;
  access->warning = access->debug = quiet;
  return access;
}

} // namespace

std::string pci_name(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code) {
  // Without udev's database libpci 3.9 keeps some memory for every name it looks for there.
  constexpr int lookup = PCI_LOOKUP_NO_HWDB;
  // Loading pci.ids takes milliseconds, so it stays loaded, for each thread that asks: the event loop's and
  // the one for the host.
  thread_local const auto access = open_names();
  std::array<char, 256> class_text{}, device_text{};
  const char* class_name = pci_lookup_name(access.get(), class_text.data(), class_text.size(),
                                           lookup | PCI_LOOKUP_CLASS, static_cast<int>(class_code >> 8));
  const char* device_name = pci_lookup_name(access.get(), device_text.data(), device_text.size(),
                                            lookup | PCI_LOOKUP_VENDOR | PCI_LOOKUP_DEVICE, vendor, device);
  return std::string(class_name) + ": " + device_name;
}

} // namespace smartio::vfio
