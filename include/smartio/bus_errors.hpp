// Surviving the sudden end of a device.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>

namespace smartio {
inline namespace v0 {

/// From now on this process survives loads and stores to registers (BarMapping::areas) whose mapping the kernel has
/// withdrawn: the device was pulled out or reset from outside, or its memory space was switched off. Otherwise SIGBUS
/// ends the process. The page that was touched becomes private memory of this process, until the BAR is mapped anew:
/// loads give all ones, stores reach no device.
///
/// Takes the process's SIGBUS handler, for good; every other SIGBUS goes to the handler there was, or ends the process
/// as before. A handler that the program sets later replaces this one. Threads that block SIGBUS are not guarded.
/// Holds for BARs mapped before and after; calling it again does nothing. Fails with the errno of sigaction.
Result<void> guard_bus_errors();

} // namespace v0
} // namespace smartio

#endif
