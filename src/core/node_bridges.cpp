// Bridges to other hosts: which node each leads to, and what ends when one goes down.
#include "node.hpp"

#include "resolver.hpp"

#include <algorithm>

namespace smartio::core {

Fabric fabric_to(const View& view, NodeId node, const std::string& boot_id, bool has_socket) {
  if (boot_id == view.settings.boot_id) return has_socket ? Fabric::local : Fabric::none;
  const bool reached =
      std::ranges::any_of(view.bridges, [node](const auto& b) { return b.second.up && b.second.peer == node; });
  return reached ? Fabric::ntb : Fabric::none;
}

Fabric fabric_to(const View& view, const LendingPeer& lender) {
  return fabric_to(view, lender.hello.node, lender.hello.boot_id, !lender.hello.fabric_token.empty());
}

std::vector<std::string> Node::bridges() const {
  const auto option = intent_.options.find("ntb");
  return option == intent_.options.end() ? settings_.bridges : split_list(option->second);
}

void Node::use_bridges() {
  const auto wanted = bridges();
  const auto unwanted = [&wanted](const auto& b) { return std::ranges::find(wanted, b.first) == wanted.end(); };
  for (const auto& bridge : std::map(bridges_))
    if (unwanted(bridge) && bridge.second.up)
      on(BridgeChanged{.address = bridge.first, .reason = "it is not to be used any more"});
  std::erase_if(bridges_, unwanted);
  for (const auto& address : wanted)
    if (auto& bridge = bridges_[address]; !bridge.up) bridge = {.address = address, .reason = "it is being opened"};
  if (!wanted.empty() || intent_.options.contains("ntb")) effects_.push_back(UseBridges{wanted, peer_timeout()});
}

/// What is lent over a bridge that is down ends: the device must not go on with memory that it may not reach.
void Node::on(const BridgeChanged& changed) {
  auto& bridge = bridges_[changed.address];
  const bool was_up = bridge.up;
  const auto peer = was_up ? bridge.peer : changed.peer;
  bridge = changed;
  if (was_up == changed.up) return;
  if (changed.up) {
    log(6, fmt::format("the bridge {} leads to node {}", changed.address, number(peer)));
    return emit("bridge-up", {{"address", changed.address}, {"node", number(peer)}});
  }
  const auto why = fmt::format("the bridge to node {} is down: {}", number(peer), changed.reason);
  const auto borrower = borrowers_.find(peer);
  const bool far = borrower != borrowers_.end() && borrower->second.boot_id != settings_.boot_id;
  if (far && core::fabric_to(view(), peer, borrower->second.boot_id, false) == Fabric::none) end_shares_of(peer, why);
  log(4, why);
  emit("bridge-down", {{"address", changed.address}, {"node", number(peer)}, {"reason", changed.reason}});
}

} // namespace smartio::core
