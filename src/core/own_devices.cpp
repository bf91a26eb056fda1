#include "own_devices.hpp"

namespace smartio::core {
namespace {

/// Takes `value` out of the set of that key, and the set when it is empty.
template <class Map, class Value> void erase_from(Map& map, const typename Map::key_type& key, const Value& value) {
  const auto found = map.find(key);
  if (found == map.end()) return;
  found->second.erase(value);
  if (found->second.empty()) map.erase(found);
}

template <class Map> const typename Map::mapped_type& set_of(const Map& map, const typename Map::key_type& key) {
  static const typename Map::mapped_type none;
  const auto found = map.find(key);
  return found == map.end() ? none : found->second;
}

} // namespace

OwnDevice* OwnDevices::find(Index index) {
  const auto found = devices_.find(index);
  return found == devices_.end() ? nullptr : &found->second;
}

const OwnDevice* OwnDevices::find(Index index) const {
  const auto found = devices_.find(index);
  return found == devices_.end() ? nullptr : &found->second;
}

std::optional<OwnDevices::Index> OwnDevices::by_address(const std::string& address) const {
  const auto found = addresses_.find(address);
  return found == addresses_.end() ? std::nullopt : std::optional(found->second);
}

const std::set<OwnDevices::Index>& OwnDevices::in_group(std::uint32_t iommu_group) const {
  return set_of(groups_, iommu_group);
}

const OwnDevices::Lent& OwnDevices::lent_to(NodeId borrower) const { return set_of(lent_, borrower); }

std::optional<OwnDevices::Index> OwnDevices::lowest_free() const {
  return lowest_free_ > 0xffff ? std::nullopt : std::optional(static_cast<Index>(lowest_free_));
}

OwnDevice& OwnDevices::add(Index index, std::string address) {
  addresses_.try_emplace(address, index);
  auto& device = devices_[index] = OwnDevice{.address = std::move(address)};
  while (lowest_free_ <= 0xffff && devices_.contains(static_cast<Index>(lowest_free_))) ++lowest_free_;
  return device;
}

void OwnDevices::remove(Index index) {
  const auto device = devices_.extract(index);
  if (device.empty()) return;
  if (by_address(device.mapped().address) == index) addresses_.erase(device.mapped().address);
  if (const auto group = device.mapped().identity.iommu_group) erase_from(groups_, *group, index);
  lowest_free_ = std::min<unsigned>(lowest_free_, index);
}

void OwnDevices::identify(Index index, Identity identity) {
  auto& device = devices_.at(index);
  if (device.identity.iommu_group) erase_from(groups_, *device.identity.iommu_group, index);
  device.identity = std::move(identity);
  if (device.identity.iommu_group) groups_[*device.identity.iommu_group].insert(index);
}

void OwnDevices::move(Index index, const std::string& address) {
  auto& device = devices_.at(index);
  if (by_address(device.address) == index) addresses_.erase(device.address);
  if (const auto other = by_address(address)) {
    devices_.at(*other).address = device.address;
    addresses_[device.address] = *other;
  }
  device.address = address;
  addresses_[address] = index;
}

void OwnDevices::grant(Index index, std::uint64_t epoch, Share share) {
  lent_[share.borrower].insert({index, epoch});
  devices_.at(index).shares.emplace(epoch, std::move(share));
}

std::optional<Share> OwnDevices::end_of(Index index, std::uint64_t epoch) {
  auto share = devices_.at(index).shares.extract(epoch);
  if (share.empty()) return std::nullopt;
  erase_from(lent_, share.mapped().borrower, std::pair(index, epoch));
  return std::move(share.mapped());
}

DeviceEntry entry_of(DeviceId id, const OwnDevice& device) {
  const auto borrower = device.shares.empty() ? NodeId{} : device.shares.begin()->second.borrower;
  const bool between = device.state == DeviceState::borrowed && device.shares.empty(); // on its way to its driver
  return {id,
          device.address,
          device.identity.name,
          device.identity.vendor,
          device.identity.device,
          device.identity.class_code,
          between ? DeviceState::unavailable : device.state,
          borrower};
}

} // namespace smartio::core
