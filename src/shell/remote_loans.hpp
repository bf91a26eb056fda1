// Clients of loans here whose devices are beyond bridges.
#pragma once

#include "bridges.hpp"
#include "device_message.hpp"
#include "remote_device.hpp"

#include <functional>
#include <map>
#include <memory>

namespace smartio {

class RemoteLoans {
public:
  using Send = std::function<void(core::LinkId, const core::DeviceMessage&)>;
  RemoteLoans(Context& context, const Bridges& bridges, Send send)
      : context_(context), bridges_(bridges), send_(std::move(send)) {}

  /// Of the device of a loan, for each of its clients. A loan keeps the path it began on while that is up; its part
  /// of the window, if it was to have one, is its own whichever client uses it.
  DeviceSource source(core::LoanId loan, core::LinkId link, std::uint64_t window);

  /// Hostile input: what is not for a session, on its link and path, is dropped, or ends the session.
  void received(core::LinkId link, core::DeviceMessage message);

  void lost(const Bridges::PathRef& path); ///< its devices are lost, before this returns
  void link_ended(core::LinkId link);      ///< the same

private:
  struct Loan {
    core::LinkId link;
    Bridges::PathRef path;
    std::weak_ptr<RemoteDevice> device;
  };
  /// What a loan keeps from one client to the next.
  struct Kept {
    std::weak_ptr<fabric::Path> path{};
    Exposures::ReserveRef reserve{};
  };
  void reserve(core::LoanId loan, core::LinkId link, std::uint64_t window, std::shared_ptr<Kept> kept,
               Exposures& exposures, DeviceSource::Opened opened);
  void open(core::LoanId loan, core::LinkId link, const Kept& kept, DeviceSource::Opened opened);
  void lose(const std::function<bool(const Loan&)>& which);

  Context& context_;
  const Bridges& bridges_;
  Send send_;
  std::map<std::uint32_t, Loan> loans_; ///< by session
  std::uint32_t next_session_ = 1;
};

} // namespace smartio
