// What opens the devices of a node: its own and its bridges behind vfio-pci or a vfio-user socket, and those of
// lenders on this host.
#pragma once

#include "bdf.hpp"
#include "context.hpp"
#include "device_source.hpp"
#include "host_devices.hpp"
#include "kernel/device.hpp"

#include <memory>
#include <string>

namespace smartio {

class DeviceSources {
public:
  DeviceSources(Context& context, HostDevices& host) : context_(context), host_(host) {}

  DeviceSource local(const core::OpenLoan& loan) const; ///< of a lender on this host
  /// `needs_reset`: it is not lent when its server cannot reset it.
  DeviceSource user(const std::string& path, bool needs_reset) const;
  /// `wanted_back` is called when the kernel asks for the function: it is being unbound, or pulled out.
  DeviceSource kernel(const Bdf& bdf, vfio::kernel::Interface interface, std::function<void()> wanted_back) const;

private:
  OpenedDevice opened_kernel(const Bdf& bdf, const std::shared_ptr<vfio::kernel::Device>& device,
                             const std::function<void()>& wanted_back) const;

  Context& context_;
  HostDevices& host_;
  /// One for all, so that functions of one IOMMU group find each other.
  std::shared_ptr<vfio::kernel::System> kernel_ = vfio::kernel::real_system();
  const std::string vf_token_ = random_uuid(); ///< of all functions this node opens; nobody else knows it
  static std::string random_uuid();
};

} // namespace smartio
