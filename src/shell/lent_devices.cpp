#include "lent_devices.hpp"

#include "addresses.hpp"
#include "host/names.hpp"
#include "result.hpp"

namespace smartio {

namespace {

std::string hex(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

vfio::kernel::Interface interface_of(const std::string& option) {
  if (option == "type1") return vfio::kernel::Interface::type1;
  return option == "iommufd" ? vfio::kernel::Interface::iommufd : vfio::kernel::Interface::automatic;
}

} // namespace

LentDevices::LentDevices(Context& context, HostDevices& host, const DeviceSources& sources)
    : context_(context), host_(host), sources_(sources), servers_(context.io, [this](const std::string& path) {
        context_.handle(core::DeviceAppeared{std::string(core::user_prefix) + path});
      }) {}

std::shared_ptr<LentDevice> LentDevices::find(DeviceId id) const {
  const auto found = devices_.find(id);
  return found == devices_.end() ? nullptr : found->second;
}

void LentDevices::close_all(const std::shared_ptr<void>& closed) {
  opening_.over(closed);
  for (const auto& [id, device] : std::exchange(devices_, {})) device->close([closed] {});
}

void LentDevices::perform(core::EndLoan& effect) {
  if (const auto device = find(effect.loan.device)) return device->end(effect.loan, effect.last);
  context_.handle(core::LoanEnded{effect.loan, Error{make_error_code(Errc::wrong_state), "the device is not open"}});
}

void LentDevices::perform(core::ClientsReleased& effect) {
  if (const auto device = find(effect.loan.device)) device->clients_released(effect.loan);
}

void LentDevices::try_server(DeviceId id, const std::string& path) {
  server_paths_[id] = path;
  servers_.trying(path);
}

/// `error`: of the attempt to open the device, if that is how it was missed. What was open and failed is cleaned up by
/// a new server only, but one that could not be reached may only be slow.
void LentDevices::server_missed(DeviceId id, const std::optional<Error>& error) {
  const auto path = server_paths_.find(id);
  if (path == server_paths_.end() || context_.stopping) return;
  if (error && error->code == Errc::busy) return; // it is there, and somebody else's
  const bool slow = error && (error->code == Errc::peer_down || error->code == Errc::timed_out);
  servers_.missed(path->second, slow || names_.other(id, false)); // whose user may let go of it
}

/// One server is one device, whatever it is called. Compared at each connection: links may lead elsewhere by then.
DeviceSource LentDevices::by_one_name(DeviceId id, const std::string& path, DeviceSource server) {
  server.open = [this, id, path, open = std::move(server.open),
                 held = std::make_shared<std::shared_ptr<void>>()](DeviceSource::Opened opened) {
    names_.look(id, path);
    const auto other = names_.other(id, false);
    *held = other ? nullptr : names_.hold(id);
    if (other) return opened(std::unexpected(same_server(*other)));
    open(std::move(opened));
  };
  return server;
}

Error LentDevices::same_server(DeviceId other) const {
  return {make_error_code(Errc::wrong_state),
          fmt::format("its server is that of device {}, which was added as {}{}: remove one of the two",
                      to_string(other), core::user_prefix, server_paths_.at(other))};
}

void LentDevices::perform(core::ProbeDevice& effect) {
  const auto id = effect.device;
  if (const auto bdf = parse_bdf(effect.address))
    return host_.probe(*bdf, [this, id](Result<core::Identity> identity) { probed(id, std::move(identity)); });
  const auto path = effect.address.substr(core::user_prefix.size());
  try_server(id, path);
  names_.look(id, path);
  if (const auto other = names_.other(id, effect.is_new)) { // not connected to: it may serve but one client
    server_missed(id);
    return context_.handle(core::DeviceProbed{id, std::unexpected(same_server(*other)),
                                              std::string(core::user_prefix) + server_paths_.at(*other)});
  }
  LentDevice::open(
      context_.io, id, sources_.user(path, false), register_windows_, [](const core::Event&) {},
      [this, id, who = effect.who](Result<std::shared_ptr<LentDevice>> device) {
        if (!device) {
          server_missed(id, device.error());
          return probed(id, std::unexpected(device.error()));
        }
        const auto identity = (*device)->identity();
        if (!check_same(who, identity.who)) server_missed(id); // until the one that is meant is there
        (*device)->close([this, id, identity] { probed(id, identity); });
      });
}

void LentDevices::probed(DeviceId id, Result<core::Identity> identity) {
  if (const auto problem = vfio::take_names_problem(); !problem.empty())
    context_.log(4, "devices have numbers in place of names: " + problem);
  context_.handle(core::DeviceProbed{id, std::move(identity)});
}

void LentDevices::perform(core::FindDevices&) {
  host_.find([this](std::vector<core::Seen> seen) { context_.handle(core::DevicesFound{std::move(seen)}); });
}

void LentDevices::perform(core::OpenDevice& effect) {
  const auto id = effect.device;
  const auto bdf = parse_bdf(effect.address);
  if (!bdf) {
    const auto path = effect.address.substr(core::user_prefix.size());
    try_server(id, path);
    auto server = by_one_name(id, path, sources_.user(path, !effect.without_reset));
    server.comes_back = true;
    return open(id, std::move(server), std::move(effect.who));
  }
  taken_[id] = *bdf;
  auto source = sources_.kernel(*bdf, interface_of(effect.iommu), [this, address = effect.address] {
    context_.handle(core::DeviceVanished{address, "the kernel wants it back: it is being unbound or pulled out"});
  });
  host_.take(*bdf, std::move(effect.who), effect.force, std::move(effect.companions),
             [this, id, source = std::move(source)](Result<core::Who> taken) mutable {
               if (context_.stopping) return;
               if (taken) return open(id, std::move(source), std::move(*taken));
               taken_.erase(id);
               context_.handle(core::DeviceOpened{id, std::unexpected(taken.error())});
             });
}

void LentDevices::open(DeviceId id, DeviceSource source, core::Who who) {
  LentDevice::open(
      context_.io, id, std::move(source), register_windows_,
      [this, id](core::Event event) { told(id, std::move(event)); },
      [this, id, who = std::move(who),
       use = taken_.contains(id) ? opening_.begin() : nullptr](Result<std::shared_ptr<LentDevice>> device) {
        if (!device) return open_failed(id, device.error());
        if (context_.stopping) return (*device)->close([use] {});
        auto identity = (*device)->identity();
        if (use) // VFIO's configuration space may say it in other words
          identity.who = who;
        else if (const auto same = check_same(who, identity.who); !same)
          return (*device)->close([this, id, error = same.error()] { open_failed(id, error); });
        devices_[id] = *device;
        context_.handle(core::DeviceOpened{id, std::move(identity)});
      });
}

void LentDevices::told(DeviceId id, core::Event event) {
  const auto* use = std::get_if<core::UseEnded>(&event);
  const auto* loan = std::get_if<core::LoanEnded>(&event);
  const bool failed = (use != nullptr && use->error) || (loan != nullptr && loan->error);
  if (failed || std::holds_alternative<core::DeviceLost>(event)) server_missed(id);
  context_.handle(std::move(event));
}

/// What cannot be lent goes back to its driver before anybody is told.
void LentDevices::open_failed(DeviceId id, const Error& error) {
  server_missed(id, error);
  const auto taken = taken_.extract(id);
  if (taken.empty()) return context_.handle(core::DeviceOpened{id, std::unexpected(error)});
  host_.give_back(taken.mapped(), [this, id, error](Result<std::string> driver) {
    auto told = error;
    if (!driver) told.context += "; " + to_string(driver.error());
    context_.handle(core::DeviceOpened{id, std::unexpected(told)});
  });
}

void LentDevices::perform(core::CloseDevice& effect) {
  const auto id = effect.device;
  if (const auto path = server_paths_.find(id); path != server_paths_.end()) servers_.forget(path->second);
  const auto found = devices_.extract(id);
  if (found.empty()) return give_back(id);
  found.mapped()->close([this, id, keep = found.mapped(), use = opening_.begin()] { give_back(id); });
}

void LentDevices::perform(core::ForgetDevice& effect) {
  if (const auto path = server_paths_.extract(effect.device); !path.empty()) servers_.forget(path.mapped());
  names_.forget(effect.device);
}

void LentDevices::give_back(DeviceId id) {
  const auto taken = taken_.find(id);
  if (taken == taken_.end()) return context_.handle(core::DeviceClosed{id, std::nullopt, {}});
  host_.give_back(taken->second, [this, id](Result<std::string> driver) {
    if (!driver) return context_.handle(core::DeviceClosed{id, driver.error(), "vfio-pci"});
    taken_.erase(id);
    context_.handle(core::DeviceClosed{id, std::nullopt, std::move(*driver)});
  });
}

void LentDevices::perform(core::ReadConfig& effect) {
  auto done = [this, request = effect.request](Result<std::vector<std::byte>> bytes) {
    if (!bytes) return context_.handle(core::ConfigRead{request, std::unexpected(bytes.error())});
    context_.handle(core::ConfigRead{request, hex(*bytes)});
  };
  const auto device = find(effect.device);
  const auto bdf = parse_bdf(effect.address);
  const bool is_open = device && device->device();
  if (bdf && (!is_open || effect.form == ConfigForm::raw)) return host_.read_config(*bdf, std::move(done));
  if (!is_open)
    return done(
        fail(Errc::wrong_state, "the configuration space of {} can be read once it is available", effect.address));
  device->read_config(effect.form == ConfigForm::emulated, std::move(done));
}

} // namespace smartio
