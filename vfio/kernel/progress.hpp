#pragma once

#include <functional>

namespace smartio::vfio::kernel {

/// What takes long calls this from time to time, between two calls of the kernel: it has its time anew then. False:
/// nobody waits for it any more, so it may stop.
using Progress = std::function<bool()>;

} // namespace smartio::vfio::kernel
