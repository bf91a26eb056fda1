// Loans that reach over bridges: messages for devices, between the clients of loans and the devices of lenders.
#include "shell.hpp"

#include "result.hpp"

namespace smartio {

using core::DeviceMessage;

// The borrower's side.

/// Its part of the bridge's window, if it was to have one, is the loan's, whichever client uses it.
DeviceSource Shell::remote_source(core::LoanId loan, core::LinkId link, std::uint64_t window) {
  const auto kept = std::make_shared<Exposures::ReserveRef>();
  return {[this, loan, link, window, kept](DeviceSource::Opened opened) {
            const auto exposures = exposures_to(lender_of(loan.device));
            if (!exposures) return opened(fail(Errc::peer_down, "the bridge to the lender is down"));
            if (window == 0 || (*kept && (*kept)->bridge() == exposures->bridge()))
              return open_remote(loan, link, *kept, std::move(opened));
            exposures->reserve_for_clients(window, [this, loan, link, window, kept,
                                                    opened = std::move(opened)](Exposures::ReserveRef got) mutable {
              if (!got)
                return opened(fail(Errc::no_window, "the window of the bridge to node {} has no room for {} bytes",
                                   static_cast<unsigned>(lender_of(loan.device)), window));
              *kept = std::move(got);
              open_remote(loan, link, *kept, std::move(opened));
            });
          },
          "the lender, or the bridge to it, does not answer",
          {}};
}

void Shell::open_remote(core::LoanId loan, core::LinkId link, Exposures::ReserveRef reserve,
                        DeviceSource::Opened opened) {
  const auto exposures = exposures_to(lender_of(loan.device));
  if (!exposures) return opened(fail(Errc::peer_down, "the bridge to the lender is down"));
  const auto session = next_session_++;
  const auto device = std::make_shared<RemoteDevice>(
      io_, loan, session, exposures, config_.timeout,
      [this, link](const DeviceMessage& message) { send_device_message(link, message); }, std::move(reserve));
  remote_loans_[session] = {link, exposures->bridge(), device};
  // The lender sees the bridge with its own eyes: that it answers is what proves the fabric.
  device->submit(vfio::GetInfo{},
                 [this, device, session, opened = std::move(opened)](const vfio::Reply& reply) mutable {
                   if (!reply) return opened(fail(Errc::peer_down, "it does not serve the device over the bridge"));
                   OpenedDevice lent;
                   lent.device = device;
                   lent.close = [this, device, session](std::move_only_function<void()> closed) {
                     remote_loans_.erase(session);
                     device->close();
                     closed();
                   };
                   opened(std::move(lent));
                 });
}

void Shell::lose_remote_devices(const std::function<bool(const RemoteLoan&)>& which) {
  std::vector<std::shared_ptr<RemoteDevice>> lost;
  std::erase_if(remote_loans_, [&](const auto& entry) {
    if (!which(entry.second)) return false;
    if (auto device = entry.second.device.lock()) lost.push_back(std::move(device));
    return true;
  });
  for (const auto& device : lost) device->lose();
}

void Shell::send_device_message(core::LinkId link, const DeviceMessage& message) {
  if (const auto found = links_.find(link); found != links_.end())
    found->second->send(core::encode_frame(core::FrameKind::vfio_user, core::encode(message)));
}

void Shell::device_frame(core::LinkId link, const std::string& payload) {
  if (node_->peer_of(link) == NodeId{}) return handle(core::LinkDown{link, "it spoke out of turn"});
  auto message = core::decode_device_message(payload);
  if (!message) return handle(core::LinkDown{link, "it sent a malformed message for a device"});
  const RemoteClientKey key{link, message->session};
  if (message->kind == DeviceMessage::Kind::command) return serve_remote(key, std::move(*message));
  if (const auto client = remote_clients_.find(key); client != remote_clients_.end()) {
    if (const auto gone = client->second.gone) return gone();
    return end_waiting([&key](const RemoteClientKey& waiting, const RemoteEnd&) { return waiting == key; });
  }
  const auto loan = remote_loans_.find(message->session);
  if (loan == remote_loans_.end() || loan->second.link != link) return;
  const auto device = loan->second.device.lock();
  if (message->kind == DeviceMessage::Kind::closed) remote_loans_.erase(loan);
  if (!device) return;
  if (message->kind == DeviceMessage::Kind::closed) return device->lose();
  device->received(std::move(*message));
}

// The lender's side.

/// A session that is not known begins with its first command; its number is higher than those before.
void Shell::serve_remote(const RemoteClientKey& key, DeviceMessage command) {
  auto client = remote_clients_.find(key);
  if (client == remote_clients_.end()) {
    const auto [link, session] = key;
    const auto device = devices_.find(command.loan.device);
    auto& newest = newest_session_[link];
    const auto exposures = node_->admits(command.loan, link) ? exposures_to(node_->peer_of(link)) : nullptr;
    if (session <= newest || !exposures || device == devices_.end())
      return send_device_message(link, {.loan = command.loan, .session = session, .kind = DeviceMessage::Kind::closed});
    newest = session;
    end_waiting([link, loan = command.loan](const RemoteClientKey& waiting, const RemoteEnd& end) {
      return waiting.first == link && end.loan == loan; // a loan has one client
    });
    auto send = [this, to = link](const DeviceMessage& message) { send_device_message(to, message); };
    auto remote = std::make_shared<RemoteClient>(io_, command.loan, session, exposures, register_windows_, std::move(send));
    client = remote_clients_.emplace(key, RemoteEnd{command.loan, remote, {}}).first;
    device->second->attach(command.loan, node_->is_shared(command.loan),
                           [this, key, remote](std::shared_ptr<vfio::Device> lent, std::function<void()> gone) {
                             const auto waiting = remote_clients_.find(key);
                             if (waiting == remote_clients_.end()) { // it left while it waited
                               gone();
                               return std::function<void()>([] {});
                             }
                             waiting->second.gone = std::move(gone);
                             remote->admitted(std::move(lent));
                             return std::function<void()>([this, key, remote] {
                               remote_clients_.erase(key);
                               remote->close();
                             });
                           });
    client = remote_clients_.find(key);
    if (client == remote_clients_.end()) return;
  }
  client->second.client->received(std::move(command));
}

/// Clients that are not served yet.
void Shell::end_waiting(const std::function<bool(const RemoteClientKey&, const RemoteEnd&)>& which) {
  std::vector<std::shared_ptr<RemoteClient>> ended;
  std::erase_if(remote_clients_, [&](const auto& entry) {
    if (entry.second.gone || !which(entry.first, entry.second)) return false;
    ended.push_back(entry.second.client);
    return true;
  });
  for (const auto& client : ended) client->close();
}

/// The peer connection has ended: what travelled over it has, too.
void Shell::remote_link_ended(core::LinkId link) {
  lose_remote_devices([link](const RemoteLoan& loan) { return loan.link == link; });
  newest_session_.erase(link);
  end_waiting([link](const RemoteClientKey& key, const RemoteEnd&) { return key.first == link; });
  std::vector<std::function<void()>> served;
  for (const auto& [key, end] : remote_clients_)
    if (key.first == link) served.push_back(end.gone);
  std::erase_if(remote_clients_, [link](const auto& client) { return client.first.first == link; });
  for (const auto& gone : served) gone();
}

} // namespace smartio
