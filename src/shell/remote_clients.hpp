// Clients of loans beyond bridges, whose devices are here.
#pragma once

#include "bridges.hpp"
#include "lent_devices.hpp"
#include "node.hpp"
#include "remote_client.hpp"

#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace smartio {

class RemoteClients {
public:
  using Send = std::function<void(core::LinkId, const core::DeviceMessage&)>;
  /// `node` says who may use what.
  RemoteClients(Context& context, const core::Node& node, const Bridges& bridges, LentDevices& devices, Send send)
      : context_(context), node_(node), bridges_(bridges), devices_(devices), send_(std::move(send)) {}

  /// Whether the message was for a client of this node's devices. Hostile input: a command that begins a session is
  /// refused unless the loan is the peer's and the path leads to it; one of another path ends its session.
  bool received(core::LinkId link, core::DeviceMessage& message);

  void lost(const Bridges::PathRef& path); ///< its clients are
  void link_ended(core::LinkId link);      ///< what travelled over the peer connection has, too

private:
  using Key = std::pair<core::LinkId, std::uint32_t>; ///< link and session
  struct Client {
    core::LoanId loan;
    core::DevicePath device_path; ///< as the client's host names it
    Bridges::PathRef path;
    std::shared_ptr<RemoteClient> client;
    std::function<void()> gone; ///< once it is served
  };
  using Which = std::function<bool(const Key&, const Client&)>;
  void command(const Key& key, core::DeviceMessage command);
  std::shared_ptr<Exposures> admitted(const Key& key, const core::DeviceMessage& command) const;
  void begin(const Key& key, const core::DeviceMessage& first, std::shared_ptr<Exposures> exposures);
  void end(const Which& which);
  void end_waiting(const Which& which);

  Context& context_;
  const core::Node& node_;
  const Bridges& bridges_;
  LentDevices& devices_;
  Send send_;
  std::map<Key, Client> clients_;
  std::map<core::LinkId, std::uint32_t> newest_session_;
};

} // namespace smartio
