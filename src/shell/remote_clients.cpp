#include "remote_clients.hpp"

namespace smartio {

using core::DeviceMessage;

bool RemoteClients::received(core::LinkId link, DeviceMessage& message) {
  const Key key{link, message.session};
  if (message.kind == DeviceMessage::Kind::command) {
    command(key, std::move(message));
    return true;
  }
  if (!clients_.contains(key)) return false;
  end([&key](const Key& each, const Client&) { return each == key; });
  return true;
}

/// A session that is not known begins with its first command.
void RemoteClients::command(const Key& key, DeviceMessage command) {
  auto client = clients_.find(key);
  if (client != clients_.end() && client->second.device_path != command.path)
    return end([&key](const Key& each, const Client&) { return each == key; });
  if (client == clients_.end()) {
    auto exposures = admitted(key, command);
    if (!exposures)
      return send_(key.first, {.loan = command.loan,
                               .session = key.second,
                               .path = command.path.reversed(),
                               .kind = DeviceMessage::Kind::closed});
    begin(key, command, std::move(exposures));
    client = clients_.find(key);
    if (client == clients_.end()) return;
  }
  client->second.client->received(std::move(command));
}

/// The window that its registers are to be in; null: it is refused. Its number is higher than those before.
std::shared_ptr<Exposures> RemoteClients::admitted(const Key& key, const DeviceMessage& command) const {
  const auto [link, session] = key;
  const auto newest = newest_session_.find(link);
  if (session <= (newest == newest_session_.end() ? 0 : newest->second)) return nullptr;
  if (!node_.admits(command.loan, link) || !devices_.find(command.loan.device)) return nullptr;
  return bridges_.find(node_.peer_of(link), {.own = command.path.to, .peer = command.path.from});
}

void RemoteClients::begin(const Key& key, const DeviceMessage& first, std::shared_ptr<Exposures> exposures) {
  newest_session_[key.first] = key.second;
  end_waiting([link = key.first, loan = first.loan](const Key& waiting, const Client& client) {
    return waiting.first == link && client.loan == loan; // a loan has one client
  });
  const auto path = exposures->path();
  auto remote = std::make_shared<RemoteClient>(
      context_.io, first.loan, key.second, first.path.reversed(), std::move(exposures), devices_.register_windows(),
      [this, link = key.first](const DeviceMessage& message) { send_(link, message); });
  clients_.emplace(key, Client{first.loan, first.path, path, remote, {}});
  devices_.find(first.loan.device)
      ->attach(first.loan, node_.is_shared(first.loan),
               [this, key, remote](std::shared_ptr<vfio::Device> lent, std::function<void()> gone) {
                 const auto waiting = clients_.find(key);
                 if (waiting == clients_.end()) { // it left while it waited
                   gone();
                   return std::function<void()>([] {});
                 }
                 waiting->second.gone = std::move(gone);
                 remote->admitted(std::move(lent));
                 return std::function<void()>([this, key, remote] {
                   clients_.erase(key);
                   remote->close();
                 });
               });
}

/// Those that are served end by way of the lent device, which cleans up after them.
void RemoteClients::end(const Which& which) {
  end_waiting(which);
  std::vector<std::function<void()>> served;
  for (const auto& [key, client] : clients_)
    if (which(key, client)) served.push_back(client.gone);
  for (const auto& gone : served) gone();
}

/// Clients that are not served yet.
void RemoteClients::end_waiting(const Which& which) {
  std::vector<std::shared_ptr<RemoteClient>> ended;
  std::erase_if(clients_, [&](const auto& entry) {
    if (entry.second.gone || !which(entry.first, entry.second)) return false;
    ended.push_back(entry.second.client);
    return true;
  });
  for (const auto& client : ended) client->close();
}

void RemoteClients::lost(const Bridges::PathRef& path) {
  end([&path](const Key&, const Client& client) { return client.path == path; });
}

void RemoteClients::link_ended(core::LinkId link) {
  newest_session_.erase(link);
  end([link](const Key& key, const Client&) { return key.first == link; });
}

} // namespace smartio
