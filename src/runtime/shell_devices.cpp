// Devices of the shell: what opens them, and for those of this host, taking them from their drivers and giving them
// back.
#include "shell.hpp"

#include "result.hpp"

#include <random>

namespace smartio {

namespace {

constexpr std::string_view user_prefix = "vfio-user:";

std::string hex(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

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
    device.why_lost = [client = *client, who] {
      return client->why_lost().empty() ? std::string() : who + ' ' + client->why_lost();
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

vfio::kernel::Interface interface_of(const std::string& option) {
  if (option == "type1") return vfio::kernel::Interface::type1;
  return option == "iommufd" ? vfio::kernel::Interface::iommufd : vfio::kernel::Interface::automatic;
}

} // namespace

/// A UUID (RFC 4122, version 4); std::random_device is the kernel's generator here.
std::string Shell::random_uuid() {
  std::random_device random;
  const std::uint32_t b = random(), c = random();
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:04x}{:08x}", random(), b >> 16, b & 0xfff, c >> 18 | 0x8000,
                     c & 0xffff, random());
}

/// What is plugged in, pulled out or made by SR-IOV. Without it, `scan` finds the same.
void Shell::watch_host() {
  using vfio::host::Uevent;
  auto uevents = vfio::host::Uevents::open(io_.get_executor(), [this](const Uevent& event) {
    if (event.kind == Uevent::Kind::appeared) bridge_appeared(to_string(event.bdf));
    if (event.kind == Uevent::Kind::appeared) handle(core::DeviceAppeared{to_string(event.bdf)});
    if (event.kind == Uevent::Kind::vanished) handle(core::DeviceVanished{to_string(event.bdf), "it was pulled out"});
    if (event.kind == Uevent::Kind::lost) handle(core::DeviceAppeared{}); // whichever it was
  });
  if (uevents)
    uevents_ = std::move(*uevents);
  else if (config_.log)
    config_.log(4, "devices that appear are not noticed: " + to_string(uevents.error()));
}

DeviceSource Shell::local_source(const core::OpenLoan& loan) {
  const fabric::Ticket ticket{loan.nonce, loan.loan.device, loan.loan.epoch};
  return {[this, ticket, path = loan.fabric_socket](DeviceSource::Opened opened) {
            fabric::connect_local(io_, path, ticket, config_.timeout, opened_user(std::move(opened), "the lender"));
          },
          "the lender closed the connection",
          {}};
}

DeviceSource Shell::user_source(const std::string& path, bool needs_reset) {
  return {[this, path, needs_reset](DeviceSource::Opened opened) {
            vfio::user::Client::connect(
                io_, path, config_.timeout,
                serving_memory(opened_user(std::move(opened), "the device's server at " + path, needs_reset)));
          },
          "the device's server closed the connection",
          {}};
}

DeviceSource Shell::kernel_source(const Bdf& bdf, vfio::kernel::Interface interface) {
  return {[this, bdf, interface](DeviceSource::Opened opened) {
            vfio::kernel::Options options{
                .bdf = bdf, .interface = interface, .timeout = config_.timeout, .vf_token = vf_token_};
            vfio::kernel::Device::open(
                io_, kernel_, std::move(options),
                [this, bdf, opened = std::move(opened)](Result<std::shared_ptr<vfio::kernel::Device>> device) mutable {
                  if (device) return opened(opened_kernel(bdf, *device));
                  auto error = device.error();
                  if (error.code == std::errc::device_or_resource_busy) error.code = Errc::busy;
                  opened(std::unexpected(error));
                });
          },
          "the device does not answer",
          [this, bdf](std::move_only_function<void(std::string)> done) { host_->holders(bdf, std::move(done)); }};
}

OpenedDevice Shell::opened_kernel(const Bdf& bdf, const std::shared_ptr<vfio::kernel::Device>& device) {
  device->on_wanted_back([this, bdf] {
    bridge_wanted_back(to_string(bdf));
    handle(core::DeviceVanished{to_string(bdf), "the kernel wants it back: it is being unbound or pulled out"});
  });
  device->on_failure([this, bdf](const Error& error) {
    if (config_.log) config_.log(4, to_string(bdf) + ": " + to_string(error));
  });
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

void Shell::try_server(DeviceId id, const std::string& path) {
  server_paths_[id] = path;
  servers_.trying(path);
}

/// `error`: of the attempt to open the device, if that is how it was missed. What was open and failed is cleaned up by
/// a new server only, but one that could not be reached may only be slow.
void Shell::server_missed(DeviceId id, const std::optional<Error>& error) {
  const auto path = server_paths_.find(id);
  if (path == server_paths_.end() || stopping_) return;
  if (error && error->code == Errc::busy) return; // it is there, and somebody else's
  servers_.missed(path->second, error && (error->code == Errc::peer_down || error->code == Errc::timed_out));
}

void Shell::perform(core::ProbeDevice& effect) {
  const auto id = effect.device;
  if (const auto bdf = parse_bdf(effect.address))
    return host_->probe(*bdf, [this, id](Result<core::Identity> identity) {
      handle(core::DeviceProbed{id, std::move(identity)});
    });
  try_server(id, effect.address.substr(user_prefix.size()));
  LentDevice::open(
      io_, id, user_source(effect.address.substr(user_prefix.size())), peer_windows_, [](const core::Event&) {},
      [this, id](Result<std::shared_ptr<LentDevice>> device) {
        if (!device) {
          server_missed(id, device.error());
          return handle(core::DeviceProbed{id, std::unexpected(device.error())});
        }
        const auto identity = (*device)->identity();
        (*device)->close([this, id, identity] { handle(core::DeviceProbed{id, identity}); });
      });
}

void Shell::perform(core::OpenDevice& effect) {
  const auto id = effect.device;
  const auto bdf = parse_bdf(effect.address);
  if (!bdf) {
    try_server(id, effect.address.substr(user_prefix.size()));
    auto server = user_source(effect.address.substr(user_prefix.size()), !effect.without_reset);
    server.comes_back = true;
    return open_device(id, std::move(server));
  }
  taken_[id] = *bdf;
  auto source = kernel_source(*bdf, interface_of(effect.iommu));
  host_->take(*bdf, effect.force, std::move(effect.companions),
              [this, id, source = std::move(source)](Result<void> taken) mutable {
                if (stopping_) return;
                if (taken) return open_device(id, std::move(source));
                taken_.erase(id);
                handle(core::DeviceOpened{id, std::unexpected(taken.error())});
              });
}

void Shell::open_device(DeviceId id, DeviceSource source) {
  LentDevice::open(
      io_, id, std::move(source), peer_windows_,
      [this, id](core::Event event) {
        const auto* use = std::get_if<core::UseEnded>(&event);
        const auto* loan = std::get_if<core::LoanEnded>(&event);
        const bool failed = (use != nullptr && use->error) || (loan != nullptr && loan->error);
        if (failed || std::holds_alternative<core::DeviceLost>(event)) server_missed(id);
        handle(std::move(event));
      },
      [this, id, use = taken_.contains(id) ? host_in_use_ : nullptr](Result<std::shared_ptr<LentDevice>> device) {
        if (!device) return open_failed(id, device.error());
        if (stopping_) return (*device)->close([use] {});
        devices_[id] = *device;
        handle(core::DeviceOpened{id, (*device)->identity()});
      });
}

/// What cannot be lent goes back to its driver before anybody is told.
void Shell::open_failed(DeviceId id, const Error& error) {
  server_missed(id, error);
  const auto taken = taken_.extract(id);
  if (taken.empty()) return handle(core::DeviceOpened{id, std::unexpected(error)});
  host_->give_back(taken.mapped(), [this, id, error](Result<std::string> driver) {
    auto told = error;
    if (!driver) told.context += "; " + to_string(driver.error());
    handle(core::DeviceOpened{id, std::unexpected(told)});
  });
}

void Shell::perform(core::CloseDevice& effect) {
  const auto id = effect.device;
  if (const auto path = server_paths_.find(id); path != server_paths_.end()) servers_.forget(path->second);
  const auto found = devices_.extract(id);
  if (found.empty()) return give_back(id);
  found.mapped()->close([this, id, keep = found.mapped(), use = host_in_use_] { give_back(id); });
}

void Shell::perform(core::ForgetDevice& effect) {
  if (const auto path = server_paths_.extract(effect.device); !path.empty()) servers_.forget(path.mapped());
}

void Shell::give_back(DeviceId id) {
  const auto taken = taken_.find(id);
  if (taken == taken_.end()) return handle(core::DeviceClosed{id, std::nullopt, {}});
  host_->give_back(taken->second, [this, id](Result<std::string> driver) {
    if (!driver) return handle(core::DeviceClosed{id, driver.error(), "vfio-pci"});
    taken_.erase(id);
    handle(core::DeviceClosed{id, std::nullopt, std::move(*driver)});
  });
}

void Shell::perform(core::ScanHost& effect) {
  host_->scan(std::move(effect.rules),
              [this, request = effect.request](Result<std::vector<std::vector<std::string>>> matches) {
                handle(core::HostScanned{request, std::move(matches)});
              });
}

void Shell::perform(core::ReadConfig& effect) {
  auto done = [this, request = effect.request](Result<std::vector<std::byte>> bytes) {
    if (!bytes) return handle(core::ConfigRead{request, std::unexpected(bytes.error())});
    handle(core::ConfigRead{request, hex(*bytes)});
  };
  const auto device = devices_.find(effect.device);
  const auto bdf = parse_bdf(effect.address);
  const bool is_open = device != devices_.end() && device->second->device();
  if (bdf && (!is_open || effect.form == core::ConfigForm::raw)) return host_->read_config(*bdf, std::move(done));
  if (!is_open)
    return done(
        fail(Errc::wrong_state, "the configuration space of {} can be read once it is available", effect.address));
  device->second->read_config(effect.form == core::ConfigForm::emulated, std::move(done));
}

} // namespace smartio
