// The lender's side of loans: granting, ending, quarantine.
#include "node.hpp"

#include "range_allocator.hpp"

#include <algorithm>

namespace smartio::core {

namespace {
constexpr std::ptrdiff_t most_queued = 64; ///< requests of one borrower that wait for ends
} // namespace

bool Node::admits(const LoanId& loan, const std::string& nonce) const {
  const auto* share = granted(loan);
  const auto borrower = share == nullptr ? borrowers_.end() : borrowers_.find(share->borrower);
  if (borrower == borrowers_.end()) return false;
  const auto link = links_.find(borrower->second.link);
  return link != links_.end() && link->second.nonce == nonce && admits(loan, link->first);
}

bool Node::admits(const LoanId& loan, LinkId link) const {
  const auto from = links_.find(link);
  const auto* share = granted(loan);
  return from != links_.end() && from->second.dialled && share != nullptr && !share->ending &&
         share->borrower == from->second.peer;
}

NodeId Node::peer_of(LinkId link) const {
  const auto found = links_.find(link);
  return found == links_.end() ? NodeId{} : found->second.peer;
}

bool Node::is_shared(const LoanId& loan) const {
  const auto* share = granted(loan);
  return share != nullptr && share->shared;
}

const Share* Node::granted(const LoanId& loan) const {
  if (lender_of(loan.device) != settings_.node) return nullptr;
  const auto* device = devices_.find(index_of(loan.device));
  if (device == nullptr) return nullptr;
  const auto share = device->shares.find(loan.epoch);
  return share == device->shares.end() ? nullptr : &share->second;
}

void Node::receive(LinkId link, const BorrowRequest& request) {
  const auto borrower = links_[link].peer;
  const auto refuse = [this, link, &request](Errc code, std::string why) {
    send(link, Answer{request.number, 0, code, std::move(why)});
  };
  auto* device = own(request.device);
  const auto name = to_string(request.device);
  if (!links_[link].dialled) return close_link(link, "it asked for a device but is no borrower");
  const auto peer = borrowers_.find(borrower);
  if (stopping_ || peer == borrowers_.end() || !peer->second.leavers.empty())
    return refuse(Errc::peer_down,
                  fmt::format("node {} is {}", number(settings_.node), stopping_ ? "stopping" : "disconnecting"));
  if (device == nullptr)
    return refuse(Errc::no_such_device, fmt::format("node {} has no device {}", number(settings_.node), name));
  if (must_wait(*device, request)) {
    const auto older = std::ranges::find_if(queue_, [link, &request](const Queued& queued) {
      return queued.link == link && queued.request.device == request.device;
    });
    if (older != queue_.end()) {
      const auto number = std::exchange(older->request, request).number;
      return send(link, Answer{number, 0, Errc::busy, fmt::format("device {} was asked for anew", name)});
    }
    const auto asked = std::ranges::count(queue_, link, &Queued::link);
    if (asked >= most_queued)
      return refuse(Errc::busy, fmt::format("node {} waits for too many devices", number(borrower)));
    return queue_.push_back({link, request});
  }
  const bool joins =
      device->state == DeviceState::borrowed && request.shared && !device->leaving &&
      std::ranges::all_of(device->shares, [](const auto& s) { return s.second.shared && !s.second.ending; });
  if (device->state == DeviceState::borrowed && !joins)
    return refuse(Errc::busy, fmt::format("device {} is borrowed by node {}", name,
                                          number(device->shares.begin()->second.borrower)));
  if (device->shares.size() >= iova_slices)
    return refuse(Errc::busy, fmt::format("device {} is shared by {} borrowers, and there are addresses for no more",
                                          name, device->shares.size()));
  if ((device->state != DeviceState::available && !joins) || device->asked == Asked::close)
    return refuse(Errc::wrong_state,
                  fmt::format("device {} is {}", name,
                              device->asked == Asked::close ? "being made unavailable" : to_string(device->state)));
  if (const auto* other = companion_of_other(*device, borrower))
    return refuse(Errc::busy, fmt::format("device {} shares IOMMU group {} with {}, which node {} has borrowed", name,
                                          *device->identity.iommu_group, other->address,
                                          number(other->shares.begin()->second.borrower)));
  const auto epoch = next_epoch_++;
  devices_.grant(index_of(request.device), epoch, Share{.borrower = borrower, .shared = request.shared});
  changed_.insert(borrower);
  ++counters_["loans_granted"];
  set_state(request.device, *device, DeviceState::borrowed);
  send(link, Answer{request.number, epoch, {}, {}});
}

/// Whether nothing but ends of loans, which are under way, stand between the borrower and the device.
bool Node::must_wait(const OwnDevice& device, const BorrowRequest& request) const {
  if (device.state != DeviceState::borrowed || device.leaving) return false;
  const auto ending = [](const auto& share) { return share.second.ending; };
  const auto blocks = [&request](const auto& share) {
    return !share.second.ending && (!share.second.shared || !request.shared);
  };
  return std::ranges::any_of(device.shares, ending) && std::ranges::none_of(device.shares, blocks);
}

/// Something of the device has ended: who waits for that gets what is there now.
void Node::retry_borrows(DeviceId id) {
  const auto others = std::ranges::stable_partition(queue_, [id](const Queued& q) { return q.request.device != id; });
  const std::vector<Queued> again(others.begin(), others.end());
  queue_.erase(others.begin(), others.end());
  for (const auto& [link, request] : again) receive(link, request);
}

/// A device of the same IOMMU group that somebody else has: what one of the two maps, the other could reach.
const OwnDevice* Node::companion_of_other(const OwnDevice& device, NodeId borrower) const {
  if (!device.identity.iommu_group) return nullptr;
  for (const auto index : devices_.in_group(*device.identity.iommu_group)) {
    const auto* other = devices_.find(index);
    if (other != &device &&
        std::ranges::any_of(other->shares, [borrower](const auto& s) { return s.second.borrower != borrower; }))
      return other;
  }
  return nullptr;
}

void Node::receive(LinkId link, const ReturnRequest& request) {
  if (!links_[link].dialled) return close_link(link, "it returned a device but is no borrower");
  auto* device = own(request.device);
  const auto share =
      device == nullptr ? std::map<std::uint64_t, Share>::iterator{} : device->shares.find(request.epoch);
  if (device == nullptr || share == device->shares.end() || share->second.borrower != links_[link].peer ||
      share->second.returned_by) {
    send(link, Answer{request.number, request.epoch, {}, {}}); // it has ended already
    return;
  }
  share->second.returned_by = request.number;
  end_share(request.device, *device, request.epoch, "returned");
}

void Node::end_share(DeviceId id, OwnDevice& device, std::uint64_t epoch, std::string reason, bool lost) {
  auto& share = device.shares.at(epoch);
  if (share.ending) return;
  share.ending = true;
  changed_.insert(share.borrower);
  share.reason = std::move(reason);
  share.lost = lost;
  const bool last = std::ranges::all_of(device.shares, [](const auto& s) { return s.second.ending; });
  effects_.push_back(EndLoan{{id, epoch}, last});
}

void Node::end_shares(DeviceId id, OwnDevice& device, const std::string& reason, bool lost) {
  for (auto& [epoch, share] : device.shares) end_share(id, device, epoch, reason, lost);
}

void Node::end_shares_of(NodeId borrower, const std::string& reason) {
  for (const auto& [index, epoch] : devices_.lent_to(borrower))
    end_share(make_device_id(settings_.node, index), *devices_.find(index), epoch, reason);
}

/// Its connection has gone, and with it whoever waits for the answers.
void Node::forget_returns(NodeId borrower) {
  for (const auto& [index, epoch] : devices_.lent_to(borrower))
    devices_.find(index)->shares.at(epoch).returned_by.reset();
}

void Node::on(const TellClients& tell) {
  auto* device = own(tell.loan.device);
  const auto share =
      device == nullptr ? std::map<std::uint64_t, Share>::iterator{} : device->shares.find(tell.loan.epoch);
  if (device == nullptr || share == device->shares.end()) return;
  const auto borrower = borrowers_.find(share->second.borrower);
  const bool connected = borrower != borrowers_.end() && borrower->second.up;
  if (!connected) return effects_.push_back(ClientsReleased{tell.loan});
  share->second.told = true;
  send(borrower->second.link, TakenBack{tell.loan.device, tell.loan.epoch, share->second.reason, share->second.lost});
}

void Node::receive(LinkId link, const Released& released) {
  const auto* device = own(released.device);
  if (device == nullptr) return;
  const auto share = device->shares.find(released.epoch);
  if (share == device->shares.end() || share->second.borrower != links_[link].peer) return;
  effects_.push_back(ClientsReleased{{released.device, released.epoch}});
}

void Node::on(const LoanEnded& ended) {
  const auto id = ended.loan.device;
  auto* device = own(id);
  if (device == nullptr) return;
  const auto share = devices_.end_of(index_of(id), ended.loan.epoch);
  if (device->shares.empty() && device->asked != Asked::close && (device->leaving || device->reopens))
    close(id, *device);
  else if (ended.error)
    quarantine(id, *device, to_string(*ended.error));
  else if (!device->shares.empty())
    announce(id);
  else if (device->state == DeviceState::borrowed)
    set_state(id, *device, DeviceState::available);
  if (share) answer_end(ended.loan, *share); // now: whoever has the answer has seen the new state
  retry_borrows(id);
}

void Node::answer_end(const LoanId& loan, const Share& share) {
  changed_.insert(share.borrower);
  const auto borrower = borrowers_.find(share.borrower);
  const bool up = borrower != borrowers_.end() && borrower->second.up;
  if (up && !share.told) // the device was closed: there was nothing to wait for
    send(borrower->second.link, TakenBack{loan.device, loan.epoch, share.reason, share.lost});
  if (up && share.returned_by) send(borrower->second.link, Answer{*share.returned_by, loan.epoch, {}, {}});
  disconnect_idle(share.borrower);
}

void Node::on(const UseEnded& ended) {
  auto* device = own(ended.loan.device);
  if (device != nullptr && ended.error) quarantine(ended.loan.device, *device, to_string(*ended.error));
  retry_borrows(ended.loan.device);
}

void Node::quarantine(DeviceId id, OwnDevice& device, const std::string& reason) {
  if (device.asked == Asked::close) return; // its answer decides
  if (device.shares.empty() && device.leaving) return close(id, device);
  if (device.state != DeviceState::quarantined) {
    log(3, fmt::format("device {} is quarantined: {}", to_string(id), reason));
    set_state(id, device, DeviceState::quarantined, reason);
  }
  end_shares(id, device, reason, true);
}

} // namespace smartio::core
