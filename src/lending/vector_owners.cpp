#include "vector_owners.hpp"

#include <algorithm>

namespace smartio {

namespace {

bool names(const vfio::SetIrqs& irqs, std::uint32_t vector) {
  return irqs.count == 0 || (vector >= irqs.start && vector - irqs.start < irqs.count);
}

vfio::SetIrqs without_eventfd(std::uint32_t index, std::uint32_t vector) {
  return {vfio::irq_data_eventfd | vfio::irq_action_trigger, index, vector, 1, {}, {}};
}

} // namespace

bool takes_away(const vfio::SetIrqs& irqs) {
  if ((irqs.flags & vfio::irq_action_trigger) == 0) return false;
  return irqs.count == 0 || ((irqs.flags & vfio::irq_data_eventfd) != 0 && irqs.eventfds.empty());
}

bool VectorOwners::trespasses(const void* client, const vfio::SetIrqs& irqs) const {
  if (takes_away(irqs)) return false;
  return std::ranges::any_of(owners_, [&](const auto& owned) {
    return owned.first.first == irqs.index && owned.second != client && names(irqs, owned.first.second);
  });
}

std::vector<VectorOwners::Vector> VectorOwners::note(const void* client, const vfio::SetIrqs& irqs) {
  if (takes_away(irqs)) {
    std::erase_if(owners_, [&](const auto& owned) {
      return owned.first.first == irqs.index && owned.second == client && names(irqs, owned.first.second);
    });
    return {};
  }
  std::vector<Vector> taken;
  if ((irqs.flags & vfio::irq_action_trigger) == 0) return taken;
  for (std::uint32_t i = 0; i < irqs.eventfds.size(); ++i)
    if (owners_.emplace(Vector{irqs.index, irqs.start + i}, client).second)
      taken.emplace_back(irqs.index, irqs.start + i);
  return taken;
}

void VectorOwners::refused(const std::vector<Vector>& taken) {
  for (const auto& vector : taken) owners_.erase(vector);
}

std::vector<vfio::SetIrqs> VectorOwners::cut(const void* client, const vfio::SetIrqs& irqs) const {
  const bool alone = std::ranges::none_of(
      owners_, [&](const auto& owned) { return owned.first.first == irqs.index && owned.second != client; });
  std::vector<vfio::SetIrqs> requests;
  if (alone) {
    requests.push_back({irqs.flags, irqs.index, irqs.start, irqs.count, {}, {}});
    return requests;
  }
  for (const auto& [vector, owner] : owners_)
    if (vector.first == irqs.index && owner == client && names(irqs, vector.second))
      requests.push_back(without_eventfd(vector.first, vector.second));
  return requests;
}

std::vector<vfio::SetIrqs> VectorOwners::release(const void* client) {
  std::vector<vfio::SetIrqs> requests;
  for (const auto& [vector, owner] : owners_)
    if (owner == client) requests.push_back(without_eventfd(vector.first, vector.second));
  std::erase_if(owners_, [client](const auto& owned) { return owned.second == client; });
  return requests;
}

} // namespace smartio
