// The two interfaces of the kernel to one IOMMU domain: container and group (container.cpp; every Debian kernel), and
// iommufd (iommufd.cpp). They open devices into the domain and make and remove mappings; what may be mapped, and who
// asked for it, is the group's business (group.hpp). Calls block.
#pragma once

#include "bdf.hpp"
#include "pages.hpp"
#include "system.hpp"

#include <smartio/error.hpp>

namespace smartio::vfio::kernel {

enum class Interface { automatic, type1, iommufd };
const char* to_string(Interface interface);

/// Where sysfs has a function.
struct Place {
  Bdf bdf;
  unsigned group;                  ///< its IOMMU group's number
  std::optional<std::string> cdev; ///< its node below /dev/vfio/devices, if it has one
  bool takes_token = false;        ///< can have virtual functions, or is one of a function on vfio-pci
};
/// Errc::no_such_device; Errc::wrong_state: no IOMMU group.
Result<Place> locate(System& system, const Bdf& bdf);

/// What virtual functions and their physical function prove with that they belong together, when all are driven from
/// user space: a UUID, as text and as bytes. Opening the physical function sets it, unless a virtual one is open; a
/// function that does not take one refuses any (vfio_pci_validate_vf_token, drivers/vfio/pci/vfio_pci_core.c).
struct VfToken {
  std::string text;
  Token bytes;
};
Result<VfToken> parse_vf_token(const std::string& text); ///< Errc::bad_request

class Iommu {
public:
  virtual ~Iommu() = default;
  virtual Interface interface() const = 0;

  /// Opens a function of the group into the domain.
  virtual Result<Fd> open_device(const Place& place, const std::optional<VfToken>& token) = 0;
  virtual Result<Limits> limits() = 0; ///< as the devices opened so far leave them

  /// `window` is within the limits, overlaps no other and has a descriptor, which `source` describes. The pages are to
  /// be kept until unmap has succeeded.
  virtual Outcome<Pages> map(const DmaMap& window, const Source& source) = 0;
  virtual Outcome<std::uint64_t> unmap(Iova iova, std::uint64_t size) = 0; ///< what one call mapped; bytes taken away
};

/// A new domain with the function at `place` in it. The device's descriptor is to be closed before the domain.
struct FirstDevice {
  std::unique_ptr<Iommu> iommu;
  Fd device;
};
Result<FirstDevice> open_container(std::shared_ptr<System> system, const Place& place,
                                   const std::optional<VfToken>& token);
/// Only where the kernel can also export a device's registers as a dma-buf: without that no other device could be let
/// at them.
Result<FirstDevice> open_iommufd(std::shared_ptr<System> system, const Place& place,
                                 const std::optional<VfToken>& token);

/// A failure to open `path`, as a sentence with what to do. EBUSY stays an errno, for callers that can tell who has it.
std::unexpected<Error> open_failure(int number, const std::string& path, const Bdf& bdf);
std::unexpected<Error> token_missing(const Bdf& bdf);

} // namespace smartio::vfio::kernel
