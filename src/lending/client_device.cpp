#include "client_device.hpp"

#include "capabilities.hpp"
#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <linux/pci_regs.h>

namespace smartio {

using vfio::Completion;
using vfio::Request;

namespace {

constexpr std::byte space_enable{PCI_COMMAND_IO | PCI_COMMAND_MEMORY}, bus_master{PCI_COMMAND_MASTER};

/// The one answer to several requests, given when the last of them is answered, or dropped.
struct Sum {
  explicit Sum(Completion completion) : answer(std::move(completion)) {}
  Sum(const Sum&) = delete;
  Sum& operator=(const Sum&) = delete;
  ~Sum() {
    if (outstanding != 0) error = EIO;
    answer(error == 0 ? vfio::Reply(vfio::Unmapped{bytes}) : std::unexpected(error));
  }
  void add(const vfio::Reply& reply) {
    --outstanding;
    const auto* unmapped = reply ? std::get_if<vfio::Unmapped>(&*reply) : nullptr;
    if (unmapped != nullptr) bytes += unmapped->size;
    if (!reply) error = reply.error();
  }
  Completion answer;
  std::size_t outstanding = 0;
  std::uint64_t bytes = 0;
  int error = 0;
};

std::optional<std::size_t> command_within(std::uint64_t offset, const std::vector<std::byte>& data) {
  return vfio::index_within(offset, data.size(), PCI_COMMAND);
}

} // namespace

ClientDevice::ClientDevice(std::shared_ptr<vfio::Device> device, const Description& description,
                           std::optional<unsigned> slice, bool filters_config, std::shared_ptr<RegisterWindows> peers,
                           std::shared_ptr<VectorOwners> vectors)
    : device_(std::move(device)), description_(description), peers_(std::move(peers)), vectors_(std::move(vectors)),
      slice_(slice) {
  if (filters_config) rules_ = vfio::ConfigRules::parse(description_.config);
}

/// The errno a request is refused with by the rules of lending, or 0.
int ClientDevice::refusal(const Request& request) const {
  if (std::holds_alternative<vfio::Reset>(request) && shared()) return EPERM;
  if (const auto* map = std::get_if<vfio::DmaMap>(&request))
    return slice_ && !in_iova_slice(*slice_, std::to_underlying(map->iova), map->size) ? ERANGE : 0;
  const auto* write = std::get_if<vfio::RegionWrite>(&request);
  if (write == nullptr) return 0;
  const auto in_page = [write](const auto& page) {
    return page.bar == write->region && write->offset < page.offset + page.size &&
           page.offset < write->offset + write->data.size();
  };
  return std::ranges::any_of(description_.protected_pages, in_page) ? EPERM : 0;
}

/// Notes what a request changes once it has succeeded, and cuts answers to what a borrower may have.
Completion ClientDevice::checked(const Request& request, Completion done) {
  if (const auto* unmap = std::get_if<vfio::DmaUnmap>(&request))
    return [windows = windows_, peers = peers_, device = device_, range = *unmap,
            done = std::move(done)](vfio::Reply reply) mutable {
      if (reply) peers->unmapped(device.get(), range);
      if (reply) windows->erase(windows->beginning_in(vfio::range_of(range)));
      done(std::move(reply));
    };
  if (std::holds_alternative<vfio::Reset>(request) && description_.identity.interface == "iommufd")
    return [peers = peers_, device = device_, done = std::move(done)](vfio::Reply reply) mutable {
      peers->remake(device.get(),
                    [reply = std::move(reply), done = std::move(done)]() mutable { done(std::move(reply)); });
    };
  if (std::holds_alternative<vfio::GetInfo>(request))
    return [slice = slice_, done = std::move(done)](vfio::Reply reply) mutable {
      if (auto* info = reply ? std::get_if<vfio::Info>(&*reply) : nullptr)
        info->flags = vfio::with_slice(info->flags, slice); // whatever the device's server says there
      done(std::move(reply));
    };
  if (const auto* info = std::get_if<vfio::GetRegionInfo>(&request))
    return [self = shared_from_this(), bar = info->index, done = std::move(done)](vfio::Reply reply) mutable {
      if (auto* region = reply ? std::get_if<vfio::RegionInfo>(&*reply) : nullptr) {
        region->areas = mappable(region->areas, self->description_.protected_pages, bar);
        if (region->areas.empty()) region->fd.reset();
        if (region->areas.empty()) region->flags &= ~vfio::region_flag_mmap;
        if (region->fd && self->open_) self->peers_->exported(self->device_.get(), bar, region->fd);
      }
      done(std::move(reply));
    };
  return done;
}

void ClientDevice::submit(Request request, Completion done) {
  if (!open_) return answer_closed(request, done);
  if (const int refused = refusal(request); refused != 0) return done(std::unexpected(refused));
  auto* irqs = std::get_if<vfio::SetIrqs>(&request);
  if (irqs != nullptr && irqs->index < vfio::irq_count) used_[irqs->index] = true;
  if (irqs != nullptr && shared()) return set_own_irqs(std::move(*irqs), std::move(done));
  if (auto* window = std::get_if<vfio::DmaMap>(&request)) return map(std::move(*window), std::move(done));
  if (const auto* range = std::get_if<vfio::DmaUnmap>(&request); range != nullptr && shared())
    return unmap_own(*range, std::move(done));
  auto* write = std::get_if<vfio::RegionWrite>(&request);
  if (const auto* read = std::get_if<vfio::RegionRead>(&request); rules_ && read && read->region == vfio::config_region)
    done = with_virtual_bits(read->offset, std::move(done));
  if (write != nullptr && write->region == vfio::config_region) {
    if (const auto command = command_within(write->offset, write->data); shared() && command)
      write->data[*command] |= bus_master; // others depend on it
    if (rules_) return write_config(std::move(*write), std::move(done));
  }
  auto completion = checked(request, std::move(done));
  device_->submit(std::move(request), std::move(completion));
}

void ClientDevice::map(vfio::DmaMap window, Completion done) {
  const auto peer = peers_->mapping(device_, window, windows_);
  if (!peer) return done(std::unexpected(peer.error()));
  const auto iova = std::to_underlying(window.iova), size = window.size;
  auto noted = [windows = windows_, peers = peers_, peer = *peer, iova, size, added = windows_->add(iova, size),
                done = std::move(done)](vfio::Reply reply) mutable {
    if (reply || added) windows->erase(iova);
    if (reply) windows->add(iova, size); // an unmap before it may have erased it
    if (!reply && peer) peers->failed(*peer);
    done(std::move(reply));
  };
  device_->submit(std::move(window), std::move(noted));
}

/// Vectors of other clients stay as they are: taking one is refused, and "all" means the client's own.
void ClientDevice::set_own_irqs(vfio::SetIrqs irqs, Completion done) {
  if (vectors_->trespasses(this, irqs)) return done(std::unexpected(EBUSY));
  if (!takes_away(irqs)) {
    auto taken = vectors_->note(this, irqs);
    return device_->submit(std::move(irqs), [vectors = vectors_, taken = std::move(taken),
                                             done = std::move(done)](vfio::Reply reply) mutable {
      if (!reply) vectors->refused(taken);
      done(std::move(reply));
    });
  }
  const auto sum = std::make_shared<Sum>([done = std::move(done)](vfio::Reply reply) mutable {
    done(reply ? vfio::Reply(vfio::Done{}) : std::unexpected(reply.error()));
  });
  auto requests = vectors_->cut(this, irqs);
  vectors_->note(this, irqs);
  sum->outstanding = requests.size();
  for (auto& request : requests)
    device_->submit(std::move(request), [sum](const vfio::Reply& reply) { sum->add(reply); });
}

/// A range may hold windows of other clients: QEMU unmaps large ranges with little in them.
void ClientDevice::unmap_own(const vfio::DmaUnmap& range, Completion done) {
  const auto asked = vfio::range_of(range);
  std::vector<vfio::DmaUnmap> own;
  for (const auto& window : *windows_) { // those whose answer is outstanding may overlap others, until they are refused
    const auto there = windows_->range_of(window);
    if (!asked.overlaps(there)) continue;
    if (!asked.contains(there)) return done(std::unexpected(EINVAL)); // would cut it
    own.push_back({Iova{window.first}, window.second.size});
  }
  const auto sum = std::make_shared<Sum>(std::move(done));
  sum->outstanding = own.size();
  for (const auto& window : own) {
    Request request = window;
    auto completion = checked(request, [sum](const vfio::Reply& reply) { sum->add(reply); });
    device_->submit(std::move(request), std::move(completion));
  }
}

/// Reads what is there, then writes the bits that a borrower may change. A client that sends more before it has the
/// answer may see the write take effect after that.
void ClientDevice::write_config(vfio::RegionWrite write, Completion done) {
  if (const auto command = command_within(write.offset, write.data))
    space_enable_ = write.data[*command] & space_enable;
  const vfio::RegionRead read{vfio::config_region, write.offset, static_cast<std::uint32_t>(write.data.size())};
  device_->submit(
      read, [self = shared_from_this(), write = std::move(write), done = std::move(done)](vfio::Reply reply) mutable {
        const auto* now = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
        if (now == nullptr) return done(std::unexpected(reply ? EIO : reply.error()));
        if (!self->open_) return done(vfio::Done{});
        const auto writes = self->rules_->allowed(write.offset, write.data, now->bytes);
        if (writes.empty()) return done(vfio::Done{}); // dropped, as hardware does with read-only bits
        for (std::size_t i = 0; i + 1 < writes.size(); ++i)
          self->device_->submit(vfio::RegionWrite{vfio::config_region, writes[i].offset, writes[i].data},
                                [](vfio::Reply) {});
        self->device_->submit(vfio::RegionWrite{vfio::config_region, writes.back().offset, writes.back().data},
                              std::move(done));
      });
}

Completion ClientDevice::with_virtual_bits(std::uint64_t offset, Completion done) const {
  return [enable = space_enable_, offset, done = std::move(done)](vfio::Reply reply) mutable {
    auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
    if (const auto at = data == nullptr ? std::nullopt : command_within(offset, data->bytes)) {
      auto& command = data->bytes[*at];
      command = (command & ~space_enable) | enable;
    }
    done(std::move(reply));
  };
}

void ClientDevice::answer_closed(Request& request, Completion& done) {
  if (const auto* unmap = std::get_if<vfio::DmaUnmap>(&request)) {
    if (windows_->empty()) return done(vfio::Unmapped{unmap->size});
    unmaps_.emplace_back(unmap->size, std::move(done));
    return;
  }
  if (const auto* read = std::get_if<vfio::RegionRead>(&request))
    return done(vfio::Data{std::vector<std::byte>(read->count, std::byte{0xff})});
  if (std::holds_alternative<vfio::RegionWrite>(request)) return done(vfio::Done{});
  done(std::unexpected(ENODEV));
}

void ClientDevice::windows_gone() {
  windows_->clear();
  for (auto& [size, done] : std::exchange(unmaps_, {})) done(vfio::Unmapped{size});
}

} // namespace smartio
