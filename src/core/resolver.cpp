#include "resolver.hpp"

#include "result.hpp"

namespace smartio::core {

Result<Route> resolve(const Places& places, Fabric between) {
  const auto device = static_cast<unsigned>(places.device), memory = static_cast<unsigned>(places.memory);
  if (places.device == places.memory) return Route::descriptor;
  if (places.memory != places.cpu)
    return fail(Errc::not_permitted,
                "memory on node {} cannot be reached: it is on neither the lender nor the borrower", memory);
  switch (between) {
  case Fabric::local: return Route::descriptor;
  case Fabric::ntb:
    if (!places.kernel_device)
      return fail(Errc::not_permitted,
                  "a vfio-user device of node {} cannot reach memory across a bridge: its server takes "
                  "descriptors only",
                  device);
    return Route::aperture;
  case Fabric::none: break;
  }
  return fail(Errc::peer_down, "no common fabric with node {}: it is on another host, and no bridge joins the two",
              device);
}

} // namespace smartio::core
