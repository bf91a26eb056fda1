// Bridges to other hosts: taken from their drivers, driven, given back.
#pragma once

#include "device_message.hpp"
#include "device_sources.hpp"
#include "exposures.hpp"
#include "uses.hpp"

#include <boost/asio/steady_timer.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace smartio {

class Bridges {
public:
  using PathRef = std::shared_ptr<fabric::Path>;
  /// Called when a bridge goes down, before core is told: what reaches over it is to be stopped.
  using Lost = std::function<void(const PathRef&)>;

  Bridges(Context& context, HostDevices& host, const DeviceSources& sources, Lost lost)
      : context_(context), host_(host), sources_(sources), lost_(std::move(lost)), retry_timer_(context.io) {}

  void perform(core::UseBridges& effect);
  void appeared(const std::string& address); ///< of a function of this host: one that failed is tried again
  void retry();                              ///< all that failed

  /// Of the first that is up and leads there; null: none. Several may: `before` is taken while it is one of them.
  std::shared_ptr<Exposures> to(NodeId node, const PathRef& before = nullptr) const;
  /// Of the one that leads there, if it is up and has these `lives`: several lead to one node, and each may have
  /// begun anew since a peer spoke of it. Null: there is none.
  std::shared_ptr<Exposures> find(NodeId node, const fabric::Path::Lives& lives) const;

  /// Ends all, for good. `closed` is let go once all are back with their drivers.
  void close_all(const std::shared_ptr<void>& closed);

private:
  struct Bridge {
    std::optional<Bdf> taken{};                      ///< from its driver
    std::move_only_function<void()> end_when_open{}; ///< it is to end, but is being opened
    bool opening = false;
    OpenedDevice device{};
    PathRef path{};                                        ///< while it is open
    std::shared_ptr<Exposures> exposures{};                ///< as long
    bool failed = false, over = false;                     ///< over: nothing of it is open any more
    std::vector<std::move_only_function<void()>> enders{}; ///< who waits for that
  };
  using Ref = std::shared_ptr<Bridge>;
  using Table = std::map<std::string, Ref>; ///< by address
  void open_all();
  void open(const std::string& address);
  std::optional<std::string> same_server(const std::string& address) const;
  DeviceSource source(const std::string& address);
  void opened(const std::string& address, const Ref& bridge, Result<OpenedDevice> device);
  void start(const std::string& address, const Ref& bridge);
  void failed(const std::string& address, const Ref& bridge, const Error& error);
  void changed(const std::string& address, const Bridge& bridge);
  void wanted_back(const std::string& address);
  void close(Table::node_type node, std::move_only_function<void()> closed);
  void end(const std::string& address, const Ref& bridge, std::move_only_function<void()> closed);
  void give_back(const Bridge& bridge, std::move_only_function<void()> done);
  bool is_current(const std::string& address, const Ref& bridge) const;

  Context& context_;
  HostDevices& host_;
  const DeviceSources& sources_;
  Lost lost_;
  core::UseBridges wanted_;
  Uses ending_; ///< by those that are ending
  Table bridges_;
  std::map<std::string, unsigned> closing_;     ///< how many times
  std::map<std::string, std::string> problems_; ///< that were logged
  boost::asio::steady_timer retry_timer_;       ///< until servers of failed bridges are tried again
  std::chrono::milliseconds pause_{};
};

/// As this node's messages name it.
inline core::DevicePath device_path(const fabric::Path& path) {
  return {.from = path.lives().own, .to = path.lives().peer};
}

} // namespace smartio
