#include "vm_device.hpp"

#include "capabilities.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <linux/pci_regs.h>

namespace smartio {

using vfio::Completion;
using vfio::Request;

namespace {

constexpr std::size_t most_windows = 65535; // what VERSION promises by default: max_dma_maps

bool may_write(const vfio::DmaMap& map) { return map.access != Access::read; }

bool masters_bus(const Request& request) {
  const auto* write = std::get_if<vfio::RegionWrite>(&request);
  if (write == nullptr || write->region != vfio::config_region) return false;
  const auto command = vfio::index_within(write->offset, write->data.size(), PCI_COMMAND);
  return command && (write->data[*command] & std::byte{PCI_COMMAND_MASTER}) != std::byte{};
}

const char* advice(int number) {
  switch (number) {
  case ENOMEM:
    return "raise the limit on locked memory of the lender's smartiod (LimitMEMLOCK), or give the guest less";
  case ENOSPC:
    return "the device takes no more windows: run the guest without a virtual IOMMU, or, for a PCI device of the "
           "lender's host, raise the module option dma_entry_limit of vfio_iommu_type1";
  case EINVAL: return "the lender's IOMMU reserves or lacks these addresses: move or shrink the guest's memory";
  case ERANGE:
    return "a shared device gives each client 16 GiB of addresses of its own, in which the guest's memory does not "
           "lie: borrow it exclusively";
  case ETIMEDOUT:
    return "its pages cannot be found and pinned in the time that a client waits: use large pages, or give the guest "
           "less";
  default: return "give the guest memory of a file that can be shared";
  }
}

} // namespace

void VmDevice::submit(Request request, Completion done) {
  if (auto* irqs = std::get_if<vfio::SetIrqs>(&request); irqs != nullptr && irqs->index >= vfio::err)
    return (irqs->index == vfio::err ? error_ : wanted_).set(*irqs, done);
  if (const auto* info = std::get_if<vfio::GetIrqInfo>(&request); info != nullptr && info->index >= vfio::err)
    return done(vfio::IrqInfo{vfio::irq_flag_eventfd | vfio::irq_flag_noresize, 1});
  if (!failed_ && masters_bus(request) && lacks_memory())
    fail("the client gave the device no memory that it can reach and write: start QEMU with share=on memory (-object "
         "memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram)");
  if (failed_) return answer_failed(request, done);
  if (std::holds_alternative<vfio::GetInfo>(request)) done = noting_reserved(std::move(done));
  if (auto* window = std::get_if<vfio::DmaMap>(&request)) return map(std::move(*window), std::move(done));
  if (const auto* range = std::get_if<vfio::DmaUnmap>(&request)) return unmap(*range, std::move(done));
  device_->submit(std::move(request), std::move(done));
}

void VmDevice::Signal::set(vfio::SetIrqs& irqs, Completion& done) {
  if ((irqs.flags & vfio::irq_action_trigger) == 0) return done(std::unexpected(EINVAL));
  event_ = irqs.eventfds.empty() ? Fd() : std::move(irqs.eventfds.front());
  if (std::exchange(fired_, false)) fire();
  done(vfio::Done{});
}

void VmDevice::Signal::fire() {
  if (!std::exchange(fired_, true) && event_) signal_eventfd(event_.get());
}

void VmDevice::lost() { error_.fire(); }
void VmDevice::taken_back() { wanted_.fire(); }

void VmDevice::map(vfio::DmaMap request, Completion done) {
  const auto iova = std::to_underlying(request.iova);
  if (!windows_.overlapping(AddressRange::of(iova, request.size)).empty()) return done(std::unexpected(EEXIST));
  const bool reachable = static_cast<bool>(request.fd);
  if (!reachable && unreachable_ >= most_windows) return done(std::unexpected(ENOSPC));
  windows_.add(iova, request.size, reachable);
  if (may_write(request)) (reachable ? has_memory_ : wants_to_write_) = true;
  if (!reachable) {
    ++unreachable_;
    changed_();
    return done(vfio::Done{});
  }
  device_->submit(std::move(request), [self = shared_from_this(), iova, size = request.size,
                                       done = std::move(done)](vfio::Reply reply) mutable {
    if (!reply) self->refused(iova, size, reply.error());
    done(std::move(reply));
  });
}

Completion VmDevice::noting_reserved(Completion done) {
  return [weak = weak_from_this(), done = std::move(done)](vfio::Reply reply) mutable {
    const auto self = weak.lock();
    const auto* info = reply ? std::get_if<vfio::Info>(&*reply) : nullptr;
    if (self && info != nullptr) self->usable_ = info->iovas;
    done(std::move(reply));
  };
}

void VmDevice::refused(std::uint64_t iova, std::uint64_t size, int number) {
  if (number == ENODEV || number == ECANCELED) return; // it was lost or closed, which the client is told by others
  const auto reserved = number == EINVAL ? reserved_range(usable_, iova, size) : std::nullopt;
  fail(fmt::format("{} bytes of the client's memory at {:#x} cannot be given to the device ({}): {}", size, iova,
                   std::strerror(number),
                   reserved ? fmt::format("the lender's IOMMU takes nothing at {:#x} to {:#x}: keep the guest's memory "
                                          "out of there",
                                          reserved->first, reserved->last)
                            : advice(number)));
}

/// Windows without a descriptor end here; whatever else the range holds ends at the device.
void VmDevice::unmap(const vfio::DmaUnmap& request, Completion done) {
  const auto range = vfio::range_of(request);
  const auto found = windows_.overlapping(range);
  std::uint64_t bytes = 0, unreachable = 0;
  for (const auto& window : found) {
    if (!range.contains(windows_.range_of(window))) return done(std::unexpected(EINVAL));
    if (window.second.value) continue;
    bytes += window.second.size;
    ++unreachable;
  }
  const bool nothing_else =
      unreachable != 0 && static_cast<std::ptrdiff_t>(unreachable) == std::ranges::distance(found);
  windows_.erase(found);
  unreachable_ -= unreachable;
  if (unreachable != 0) changed_();
  if (nothing_else) return done(vfio::Unmapped{bytes});
  device_->submit(request, [bytes, done = std::move(done)](vfio::Reply reply) mutable {
    if (auto* unmapped = reply ? std::get_if<vfio::Unmapped>(&*reply) : nullptr) unmapped->size += bytes;
    done(std::move(reply));
  });
}

bool VmDevice::lacks_memory() const { return wants_to_write_ && !has_memory_; }

void VmDevice::fail(std::string reason) {
  if (std::exchange(failed_, true)) return;
  device_->submit(vfio::RegionWrite{vfio::config_region, PCI_COMMAND, std::vector<std::byte>(2)}, [](vfio::Reply) {});
  error_.fire();
  reason_(std::move(reason));
}

void VmDevice::answer_failed(Request& request, Completion& done) {
  if (const auto* read = std::get_if<vfio::RegionRead>(&request))
    return done(vfio::Data{std::vector<std::byte>(read->count, std::byte{0xff})});
  if (const auto* range = std::get_if<vfio::DmaUnmap>(&request)) return unmap(*range, std::move(done));
  const auto* irqs = std::get_if<vfio::SetIrqs>(&request);
  if (irqs != nullptr || std::holds_alternative<vfio::RegionWrite>(request)) return done(vfio::Done{});
  done(std::unexpected(ENODEV));
}

} // namespace smartio
