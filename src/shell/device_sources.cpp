#include "device_sources.hpp"

#include "local.hpp"
#include "result.hpp"
#include "user/client.hpp"

#include <random>

namespace smartio {

namespace {

/// `who` is at the other end.
vfio::user::Client::Opened opened_user(DeviceSource::Opened opened, std::string who, bool needs_reset = false) {
  return [opened = std::move(opened), who = std::move(who),
          needs_reset](Result<std::shared_ptr<vfio::user::Client>> client) mutable {
    if (!client) return opened(std::unexpected(client.error()));
    OpenedDevice device;
    device.device = *client;
    device.close = [client = *client](std::move_only_function<void()> closed) {
      client->close();
      closed();
    };
    device.why_lost = [weak = std::weak_ptr(*client), who] { // the device itself may keep this
      const auto lost = weak.lock();
      return !lost || lost->why_lost().empty() ? std::string() : who + ' ' + lost->why_lost();
    };
    device.interface = "vfio-user";
    if (needs_reset)
      device.needs_reset = "the device's server cannot reset it: what one borrower left in it would reach the next "
                           "(--without-reset lends it all the same)";
    opened(std::move(device));
  };
}

/// A device's server may reach the borrower's memory by message too.
vfio::user::Client::Opened serving_memory(vfio::user::Client::Opened opened) {
  return [opened = std::move(opened)](Result<std::shared_ptr<vfio::user::Client>> client) mutable {
    if (client) (*client)->serve_mapped_memory();
    opened(std::move(client));
  };
}

} // namespace

/// A UUID (RFC 4122, version 4); std::random_device is the kernel's generator here.
std::string DeviceSources::random_uuid() {
  std::random_device random;
  const std::uint32_t b = random(), c = random();
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:04x}{:08x}", random(), b >> 16, b & 0xfff, c >> 18 | 0x8000,
                     c & 0xffff, random());
}

DeviceSource DeviceSources::local(const core::OpenLoan& loan) const {
  const fabric::Ticket ticket{loan.nonce, loan.loan.device, loan.loan.epoch};
  return {[&context = context_, ticket, token = loan.fabric_token](DeviceSource::Opened opened) {
            fabric::connect_local(context.io, token, ticket, context.config.timeout,
                                  opened_user(std::move(opened), "the lender"));
          },
          "the lender closed the connection",
          {}};
}

DeviceSource DeviceSources::user(const std::string& path, bool needs_reset) const {
  return {[&context = context_, path, needs_reset](DeviceSource::Opened opened) {
            vfio::user::Client::connect(
                context.io, path, context.config.timeout,
                serving_memory(opened_user(std::move(opened), "the device's server at " + path, needs_reset)));
          },
          "the device's server closed the connection",
          {}};
}

DeviceSource DeviceSources::kernel(const Bdf& bdf, vfio::kernel::Interface interface,
                                   std::function<void()> wanted_back) const {
  return {[this, bdf, interface, wanted_back = std::move(wanted_back)](DeviceSource::Opened opened) {
            vfio::kernel::Options options{
                .bdf = bdf, .interface = interface, .timeout = context_.config.timeout, .vf_token = vf_token_};
            vfio::kernel::Device::open(context_.io, kernel_, std::move(options),
                                       [this, bdf, wanted_back, opened = std::move(opened)](
                                           Result<std::shared_ptr<vfio::kernel::Device>> device) mutable {
                                         if (device) return opened(opened_kernel(bdf, *device, wanted_back));
                                         auto error = device.error();
                                         if (error.code == std::errc::device_or_resource_busy) error.code = Errc::busy;
                                         opened(std::unexpected(error));
                                       });
          },
          "the device does not answer",
          [this, bdf](std::move_only_function<void(std::string)> done) { host_.holders(bdf, std::move(done)); }};
}

OpenedDevice DeviceSources::opened_kernel(const Bdf& bdf, const std::shared_ptr<vfio::kernel::Device>& device,
                                          const std::function<void()>& wanted_back) const {
  device->on_wanted_back(wanted_back);
  device->on_failure(
      [&context = context_, bdf](const Error& error) { context.log(4, to_string(bdf) + ": " + to_string(error)); });
  OpenedDevice opened;
  opened.device = device;
  opened.close = [device](std::move_only_function<void()> closed) { device->close(std::move(closed)); };
  opened.on_error = [device](std::move_only_function<void()> error) { device->on_error(std::move(error)); };
  opened.interface = device->interface() == vfio::kernel::Interface::iommufd ? "iommufd" : "type1";
  opened.driver = "vfio-pci";
  opened.iommu_group = device->group();
  opened.filters_config = true;
  opened.needs_reset = "the device's reset does not work: what one borrower left in it would reach the next";
  return opened;
}

} // namespace smartio
