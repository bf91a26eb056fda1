// What a device says of itself, asked over its requests.
#pragma once

#include "device.hpp"
#include "events.hpp"

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <vector>

namespace smartio {

struct Description {
  core::Identity identity;
  bool can_reset = false;
  /// Pages with the MSI-X table or the pending bits: never mapped by a borrower, never written for one.
  struct Protected {
    unsigned bar;
    std::uint64_t offset, size;
  };
  std::vector<Protected> protected_pages;
  std::vector<std::byte> config; ///< as it was when the device was opened
};

/// Fails with Errc::bad_request when the answers make no PCI device.
boost::asio::awaitable<Result<Description>> describe(std::shared_ptr<vfio::Device> device);

/// Of `areas`, the longest run without a protected page of `bar`; of equal ones the lowest. Nothing if there is none.
std::vector<vfio::RegionArea> mappable(const std::vector<vfio::RegionArea>& areas,
                                       const std::vector<Description::Protected>& pages, unsigned bar);

} // namespace smartio
