// The devices that this node lends: probed, taken from their drivers, opened, closed, given back.
#pragma once

#include "device_sources.hpp"
#include "lent_device.hpp"
#include "server_names.hpp"
#include "server_watch.hpp"
#include "uses.hpp"

#include <map>
#include <memory>

namespace smartio {

class LentDevices {
public:
  LentDevices(Context& context, HostDevices& host, const DeviceSources& sources);

  void perform(core::ProbeDevice& effect);
  void perform(core::FindDevices& effect);
  void perform(core::OpenDevice& effect);
  void perform(core::CloseDevice& effect);
  void perform(core::ForgetDevice& effect);
  void perform(core::ReadConfig& effect);
  void perform(core::EndLoan& effect);
  void perform(core::ClientsReleased& effect);

  std::shared_ptr<LentDevice> find(DeviceId id) const; ///< null: it is not open
  /// The registers that their borrowers may map for other devices.
  const std::shared_ptr<RegisterWindows>& register_windows() const { return register_windows_; }

  /// For good. `closed` is let go once nothing of them is open any more, of those that are being opened or closed
  /// included. They are not given back.
  void close_all(const std::shared_ptr<void>& closed);

private:
  void open(DeviceId id, DeviceSource source, core::Who who); ///< closes what is another
  void open_failed(DeviceId id, const Error& error);
  void give_back(DeviceId id);
  void try_server(DeviceId id, const std::string& path);
  void server_missed(DeviceId id, const std::optional<Error>& error = std::nullopt);
  DeviceSource by_one_name(DeviceId id, const std::string& path, DeviceSource server);
  Error same_server(DeviceId other) const;
  void told(DeviceId id, core::Event event);
  void probed(DeviceId id, Result<core::Identity> identity);

  Context& context_;
  HostDevices& host_;
  const DeviceSources& sources_;
  std::shared_ptr<RegisterWindows> register_windows_ = std::make_shared<RegisterWindows>();
  std::map<DeviceId, std::shared_ptr<LentDevice>> devices_;
  std::map<DeviceId, Bdf> taken_; ///< from their drivers, or about to be
  Uses opening_;                  ///< by whoever opens or closes one of them
  ServerWatch servers_;
  std::map<DeviceId, std::string> server_paths_; ///< of devices that have one
  ServerNames names_;
};

} // namespace smartio
