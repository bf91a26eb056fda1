#include "remote_loans.hpp"

#include "result.hpp"

namespace smartio {

using core::DeviceMessage;

DeviceSource RemoteLoans::source(core::LoanId loan, core::LinkId link, std::uint64_t window) {
  const auto kept = std::make_shared<Kept>();
  return {[this, loan, link, window, kept](DeviceSource::Opened opened) {
            const auto exposures = bridges_.to(lender_of(loan.device), kept->path.lock());
            if (!exposures) return opened(fail(Errc::peer_down, "the bridge to the lender is down"));
            kept->path = exposures->path();
            if (window == 0 || (kept->reserve && kept->reserve->path() == exposures->path()))
              return open(loan, link, *kept, std::move(opened));
            reserve(loan, link, window, kept, *exposures, std::move(opened));
          },
          "the lender, or the bridge to it, does not answer",
          {}};
}

void RemoteLoans::reserve(core::LoanId loan, core::LinkId link, std::uint64_t window, std::shared_ptr<Kept> kept,
                          Exposures& exposures, DeviceSource::Opened opened) {
  exposures.reserve_for_clients(
      window, [this, loan, link, window, kept, opened = std::move(opened)](Exposures::ReserveRef got) mutable {
        if (!got)
          return opened(fail(Errc::no_window, "the window of the bridge to node {} has no room for {} bytes",
                             static_cast<unsigned>(lender_of(loan.device)), window));
        if (got->path() == kept->path.lock()) kept->reserve = std::move(got); // else another client came first
        open(loan, link, *kept, std::move(opened));
      });
}

void RemoteLoans::open(core::LoanId loan, core::LinkId link, const Kept& kept, DeviceSource::Opened opened) {
  const auto path = kept.path.lock();
  const auto exposures = path ? bridges_.to(lender_of(loan.device), path) : nullptr;
  if (!exposures || exposures->path() != path || (kept.reserve && kept.reserve->path() != path))
    return opened(fail(Errc::peer_down, "the bridge to the lender is down"));
  const auto session = next_session_++;
  const auto device = std::make_shared<RemoteDevice>(
      context_.io, loan, session, device_path(*path), exposures, context_.config.timeout,
      [this, link](const DeviceMessage& message) { send_(link, message); }, kept.reserve);
  loans_[session] = {link, path, device};
  // The lender sees the bridge with its own eyes: that it answers is what proves the fabric.
  device->submit(vfio::GetInfo{},
                 [this, device, session, opened = std::move(opened)](const vfio::Reply& reply) mutable {
                   if (!reply) return opened(fail(Errc::peer_down, "it does not serve the device over the bridge"));
                   OpenedDevice lent;
                   lent.device = device;
                   lent.close = [this, device, session](std::move_only_function<void()> closed) {
                     loans_.erase(session);
                     device->close();
                     closed();
                   };
                   opened(std::move(lent));
                 });
}

void RemoteLoans::received(core::LinkId link, DeviceMessage message) {
  const auto loan = loans_.find(message.session);
  if (loan == loans_.end() || loan->second.link != link) return;
  const auto device = loan->second.device.lock();
  const bool closed =
      message.kind == DeviceMessage::Kind::closed || message.path.reversed() != device_path(*loan->second.path);
  if (closed) loans_.erase(loan);
  if (!device) return;
  if (closed) return device->lose();
  device->received(std::move(message));
}

void RemoteLoans::lose(const std::function<bool(const Loan&)>& which) {
  std::vector<std::shared_ptr<RemoteDevice>> lost;
  std::erase_if(loans_, [&](const auto& entry) {
    if (!which(entry.second)) return false;
    if (auto device = entry.second.device.lock()) lost.push_back(std::move(device));
    return true;
  });
  for (const auto& device : lost) device->lose();
}

void RemoteLoans::lost(const Bridges::PathRef& path) {
  lose([&path](const Loan& loan) { return loan.path == path; });
}

void RemoteLoans::link_ended(core::LinkId link) {
  lose([link](const Loan& loan) { return loan.link == link; });
}

} // namespace smartio
