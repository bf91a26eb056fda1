// Which nodes this one lends to: connecting with them and leaving them, on command.
#include "addresses.hpp"
#include "node.hpp"

namespace smartio::core {

void Node::command_connect(Command& c) {
  const auto node = get_node(c.arguments, "node");
  if (!node) return reply(c.request, std::unexpected(node.error()));
  auto address = get_string(c.arguments, "address").value_or("");
  const auto known = borrowers_.find(*node);
  if (known != borrowers_.end() && !known->second.leavers.empty())
    return reply(c.request, fail(Errc::busy, "node {} is being disconnected: its loans are ending", number(*node)));
  if (known != borrowers_.end() && known->second.up) {
    const auto note = *node == settings_.node ? fmt::format("node {} is connected to itself", number(*node))
                                              : fmt::format("node {} is connected already", number(*node));
    return reply(c.request, Json{{"node", number(*node)}, {"address", known->second.address}, {"state", "up"}}, note);
  }
  if (address.empty() && known != borrowers_.end()) address = known->second.address;
  if (const auto entry = settings_.nodes.find(*node); address.empty() && entry != settings_.nodes.end())
    address = entry->second;
  if (address.empty())
    return reply(c.request,
                 fail(Errc::no_such_node, "no address of node {} is known: give --address HOST:PORT", number(*node)));
  if (const auto good = check_endpoint(address); !good) return reply(c.request, std::unexpected(good.error()));
  if (known != borrowers_.end() && known->second.link != 0 && known->second.address != address) {
    known->second.address = address; // the one that is being tried is not wanted any more
    close_link(known->second.link, "another address was given");
  }
  const auto again = borrowers_.find(*node);
  const bool dialling = again != borrowers_.end();
  auto& borrower = borrowers_[*node];
  borrower.address = address;
  const bool wait = get_bool(c.arguments, "wait").value_or(false);
  if (wait && intent_.connections[*node] != address) {
    intent_.connections[*node] = address;
    save(connection_line(intent_, *node));
  }
  if (wait)
    reply(c.request, Json{{"node", number(*node)}, {"address", address}, {"state", "connecting"}},
          fmt::format("node {} is connected as soon as it can be reached", number(*node)));
  else
    borrower.waiting.push_back(c.request);
  if (dialling && borrower.link != 0) return; // the hello is on its way
  effects_.push_back(Disarm{{Timer::Kind::redial, number(*node)}});
  effects_.push_back(Dial{*node, address});
}

void Node::command_disconnect(Command& c) {
  const auto node = get_node(c.arguments, "node");
  if (!node) return reply(c.request, std::unexpected(node.error()));
  if (*node == settings_.node)
    return reply(c.request, fail(Errc::not_permitted, "node {} cannot be disconnected from itself", number(*node)));
  const auto found = borrowers_.find(*node);
  if (found == borrowers_.end())
    return reply(c.request, Json{{"node", number(*node)}}, fmt::format("node {} is not connected", number(*node)));
  if (intent_.connections.erase(*node) != 0) save(connection_line(intent_, *node));
  reply(found->second.waiting, fail(Errc::revoked, "node {} was disconnected", number(*node)));
  effects_.push_back(Disarm{{Timer::Kind::redial, number(*node)}});
  found->second.leavers.push_back(c.request);
  end_shares_of(*node, fmt::format("node {} disconnected", number(settings_.node)));
  disconnect_idle(*node);
}

/// Its loans were taken back first.
void Node::disconnect_idle(NodeId node) {
  const auto found = borrowers_.find(node);
  if (found == borrowers_.end() || found->second.leavers.empty() || !devices_.lent_to(node).empty()) return;
  auto leavers = std::move(found->second.leavers);
  const auto link = found->second.link;
  borrowers_.erase(found);
  if (link != 0) refuse(link, fmt::format("node {} disconnected", number(settings_.node)));
  reply(leavers, Json{{"node", number(node)}});
}

} // namespace smartio::core
