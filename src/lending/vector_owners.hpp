// Which client of a shared device has which interrupt vector: nobody disables or takes another's.
#pragma once

#include "device.hpp"

#include <map>
#include <vector>

namespace smartio {

/// One for a device; single-threaded. Clients are told apart by their addresses, and forgotten before they end.
class VectorOwners {
public:
  /// Whether `irqs` touches a vector of somebody else. Switching everything of an index off (a count of 0, or a range
  /// without eventfds) does not count: it is cut to what is the client's own.
  bool trespasses(const void* client, const vfio::SetIrqs& irqs) const;

  using Vector = std::pair<std::uint32_t, std::uint32_t>; ///< interrupt index and vector

  /// Notes what the device is about to be told for `client`. Gives the vectors that were nobody's before.
  std::vector<Vector> note(const void* client, const vfio::SetIrqs& irqs);
  void refused(const std::vector<Vector>& taken); ///< by the device: they are nobody's again

  /// What `irqs`, which takes eventfds away, is for this client: itself where nobody else has a vector of that index,
  /// otherwise one request for each vector of its own that it names.
  std::vector<vfio::SetIrqs> cut(const void* client, const vfio::SetIrqs& irqs) const;

  /// Requests that take all vectors from `client`; it has none afterwards.
  std::vector<vfio::SetIrqs> release(const void* client);

private:
  std::map<Vector, const void*> owners_;
};

/// Whether it takes eventfds away, of the vectors named or of all (linux/vfio.h, VFIO_DEVICE_SET_IRQS).
bool takes_away(const vfio::SetIrqs& irqs);

} // namespace smartio
