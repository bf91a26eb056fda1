#include "names.hpp"

#include <array>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

extern "C" {
#include <pci/pci.h>
}

namespace smartio::vfio {

namespace {

using LibpciAccess = std::unique_ptr<pci_access, decltype(&pci_cleanup)>;

struct NameList {
  LibpciAccess access;
  int lookup; ///< flags for all of them
};

/// What libpci could not read, until somebody has asked.
struct NamesProblem {
  std::mutex mutex;
  bool told = false;
  std::string text;
};

NamesProblem& names_problem() {
  static auto* const problem = new NamesProblem; // never destroyed: a node's thread may outlive main()
  return *problem;
}

// libpci calls error() for a line that it cannot read as much as for memory that it does not get, and that must not
// return. It is C and has closed its file by then, so a jump to whoever called it leaves nothing behind.
thread_local std::jmp_buf lookup_failed;
thread_local std::array<char, 256> lookup_failure;

void tell_nobody(char*, ...) {}
__attribute__((noreturn)) void end_lookup(char* format, ...) { // the type libpci asks for
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(lookup_failure.data(), lookup_failure.size(), format, arguments);
  va_end(arguments);
  std::longjmp(lookup_failed, 1);
}

/// Only the names are wanted: pci_init would look for devices, and end the process where it may not. What it would set
/// that looking up names needs are the reporting functions.
NameList open_names() {
  // Without udev's database libpci 3.9 keeps some memory for every name it looks for there.
  NameList names{LibpciAccess(pci_alloc(), &pci_cleanup), PCI_LOOKUP_NO_HWDB};
  names.access->error = end_lookup;
  names.access->warning = names.access->debug = tell_nobody;
  return names;
}

struct NameOfFunction {
  static constexpr int longest = 256;
  std::array<char, longest> class_text{}, device_text{};
  const char *class_name = nullptr, *device_name = nullptr;
};

/// Loads the database first, unless it did before or `names` leaves that out. False if libpci gave up. Has nothing that
/// a jump could leave undestroyed.
bool look_up(const NameList& names, int vendor, int device, int device_class, NameOfFunction& found) {
  if (setjmp(lookup_failed) != 0) return false;
  found.class_name = pci_lookup_name(names.access.get(), found.class_text.data(), found.longest,
                                     names.lookup | PCI_LOOKUP_CLASS, device_class);
  found.device_name = pci_lookup_name(names.access.get(), found.device_text.data(), found.longest,
                                      names.lookup | PCI_LOOKUP_VENDOR | PCI_LOOKUP_DEVICE, vendor, device);
  return true;
}

/// From now on names are numbers.
void give_up(NameList& names) {
  pci_free_name_list(names.access.get());
  names.lookup |= PCI_LOOKUP_SKIP_LOCAL;
  std::string text(lookup_failure.data());
  text.erase(text.find_last_not_of('\n') + 1);
  auto& problem = names_problem();
  const std::lock_guard lock(problem.mutex);
  if (!problem.told) problem.text = std::move(text);
}

} // namespace

std::string pci_name(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code) {
  // Loading pci.ids takes milliseconds, so it stays loaded, for each thread that asks: the event loop's and
  // the one for the host.
  thread_local auto names = open_names();
  NameOfFunction found;
  const auto ask = [&] { return look_up(names, vendor, device, static_cast<int>(class_code >> 8), found); };
  if (!ask()) {
    give_up(names);
    if (!ask()) std::abort(); // without the database it is memory that is missing
  }
  return std::string(found.class_name) + ": " + found.device_name;
}

std::string take_names_problem() {
  auto& problem = names_problem();
  const std::lock_guard lock(problem.mutex);
  problem.told = problem.told || !problem.text.empty();
  return std::exchange(problem.text, {});
}

} // namespace smartio::vfio
