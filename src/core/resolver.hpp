// The one place that knows where a device, the memory it should reach and the CPU that drives it are, and answers how
// they meet. Pure; its cases are its test table.
#pragma once

#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <cstdint>

namespace smartio::core {

/// How memory of two nodes meets.
enum class Fabric : std::uint8_t {
  none,
  local, ///< one host: descriptors of memory, registers and eventfds are passed
  ntb,   ///< windows of a non-transparent bridge
};

struct Places {
  NodeId device, memory, cpu;
  bool kernel_device; ///< behind kernel VFIO; false: behind a vfio-user socket
};

enum class Route : std::uint8_t {
  descriptor, ///< the device's IOMMU domain maps the memory itself
  aperture,   ///< it maps a window of the bridge's aperture
};

/// How the device reaches the memory. `between` joins the device's node with the memory's (ignored where they are the
/// same). Errc::peer_down: no common fabric; Errc::not_permitted: what a fabric cannot carry, with the reason.
Result<Route> resolve(const Places& places, Fabric between);

} // namespace smartio::core
