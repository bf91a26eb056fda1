// Order between a driver's memory and its device. The fences of C++ order what processors see (on arm64 `dmb ish`, the
// inner shareable domain); a device on PCI Express is outside of that, and takes `dmb osh`. On x86 loads and stores are
// seen in their order by devices, too, and only the compiler is held back.
#pragma once

#include <atomic>

namespace nvme {

/// Between what a device is to find in memory and the store that sends it there.
inline void before_doorbell() noexcept {
#if defined(__aarch64__)
  asm volatile("dmb oshst" ::: "memory");
#else
  std::atomic_thread_fence(std::memory_order_release);
#endif
}

/// Between the load that saw a device's mark and those of what the device wrote before it.
inline void after_mark() noexcept {
#if defined(__aarch64__)
  asm volatile("dmb oshld" ::: "memory");
#else
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
}

} // namespace nvme
