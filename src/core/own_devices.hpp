// The devices of this node and who has them. What is looked up at an event is found at a cost that does not grow with
// the number of devices or of loans: by index, address, IOMMU group, borrower. Pure.
#pragma once

#include "events.hpp"

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace smartio::core {

/// A loan at the lender. One per device, or up to iova_slices shared ones.
struct Share {
  NodeId borrower;
  bool shared;
  bool ending = false, told = false; ///< the latter: TakenBack was sent
  std::string reason{};
  bool lost = false;                          ///< it ends because the device is
  std::optional<std::uint64_t> returned_by{}; ///< number of the ReturnRequest to answer
};

/// What the shell was asked for and has not answered yet: one thing at a time. A probe is asked for of a device that
/// is unavailable, open of one that is or is quarantined, close of any that was opened.
enum class Asked : std::uint8_t { nothing, probe, open, close };

/// What OwnDevices finds devices by (address, identity's IOMMU group, shares) changes by its functions alone.
struct OwnDevice {
  std::string address;
  Identity identity{};
  DeviceState state = DeviceState::unavailable;
  std::string reason{}; ///< of quarantine, or why it could not be made available
  Asked asked = Asked::nothing;
  bool leaving = false;                    ///< becomes unavailable once its last loan ended
  bool reopens = false;                    ///< closed, once its last loan ended, only to be opened again
  bool vanished = false;                   ///< of this host, and not there now
  bool unidentified = false;               ///< until its driver has asked it who it is
  bool identified = false;                 ///< it has, while the device was probed
  bool without_reset = false;              ///< lent although it cannot be reset
  bool by_filter = false;                  ///< added by one; once it was added, intent knows
  bool wanted = false;                     ///< a filter makes it available once it was added
  std::map<std::uint64_t, Share> shares{}; ///< by epoch
  std::vector<RequestId> waiting{};        ///< add, available or unavailable under way
};

/// As it is told of to other nodes, and shown.
DeviceEntry entry_of(DeviceId id, const OwnDevice& device);

class OwnDevices {
public:
  using Index = std::uint16_t;
  using Lent = std::set<std::pair<Index, std::uint64_t>>; ///< index and epoch

  auto begin() { return devices_.begin(); }
  auto end() { return devices_.end(); }
  auto begin() const { return devices_.begin(); }
  auto end() const { return devices_.end(); }

  OwnDevice* find(Index index);
  const OwnDevice* find(Index index) const;
  std::optional<Index> by_address(const std::string& address) const;
  const std::set<Index>& in_group(std::uint32_t iommu_group) const;
  const Lent& lent_to(NodeId borrower) const;
  bool any_lent() const { return !lent_.empty(); }
  std::optional<Index> lowest_free() const; ///< nullopt: 65536 devices are there

  OwnDevice& add(Index index, std::string address); ///< there is no device of that index or address
  void remove(Index index);                         ///< it has no shares
  void identify(Index index, Identity identity);
  void move(Index index, const std::string& address); ///< what stands there goes to this one's address
  void grant(Index index, std::uint64_t epoch, Share share);
  std::optional<Share> end_of(Index index, std::uint64_t epoch); ///< takes it out

private:
  std::map<Index, OwnDevice> devices_;
  std::unordered_map<std::string, Index> addresses_;
  std::map<std::uint32_t, std::set<Index>> groups_;
  std::map<NodeId, Lent> lent_;
  unsigned lowest_free_ = 0; ///< all below are taken
};

} // namespace smartio::core
