#include "borrowed_device.hpp"

#include "descriptors.hpp"
#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/stat.h>

namespace smartio {

using vfio::Completion;
using vfio::Request;
using Kind = vfio::DescriptorKind;

namespace {

// PCI Express Base 5.0, 7.7.2.2: the table size field of MSI-X has 11 bits.
constexpr std::uint32_t most_vectors = 2048;

/// A file, which a device's server made for this region; not another device of its host, say.
bool is_file(const Fd& fd) {
  struct stat status {};
  return fd && ::fstat(fd.get(), &status) == 0 && S_ISREG(status.st_mode);
}

bool is_cut(const vfio::DmaMap& map) {
  return is_file(map.fd) && count_pieces(std::to_underlying(map.iova), map.size) > 1;
}

} // namespace

void BorrowedDevice::connected(OpenedDevice lender) {
  lender_ = std::move(lender);
  resume();
}

void BorrowedDevice::submit(Request request, Completion done) {
  // ERR is this node's to signal: it must work when the lender is silent.
  if (auto* errors = std::get_if<vfio::SetIrqs>(&request); errors != nullptr && errors->index == vfio::err)
    return set_error_interrupt(*errors, done);
  if (const auto* info = std::get_if<vfio::GetIrqInfo>(&request); info != nullptr && info->index >= vfio::err)
    return done(vfio::IrqInfo{vfio::irq_flag_eventfd | vfio::irq_flag_noresize, info->index == vfio::err ? 1U : 0U});
  const auto* irqs = std::get_if<vfio::SetIrqs>(&request); // of which its server may claim any number
  if (irqs != nullptr && !in_range(irqs->start, irqs->count, most_vectors)) return done(std::unexpected(EINVAL));
  if (revoked_) return answer_revoked(request, done);
  if (!lender_.device || busy_ || !waiting_.empty())
    return waiting_.push_back({std::move(request), std::move(done)}), void();
  forward(std::move(request), std::move(done));
}

void BorrowedDevice::forward(Request request, Completion done) {
  if (std::holds_alternative<vfio::GetRegionInfo>(request)) done = with_trust(std::move(done));
  auto completion = counted(request, std::move(done));
  if (in_pieces(request, completion)) return;
  lender_.device->submit(std::move(request), std::move(completion));
}

/// What waited goes out, in order, up to the next window that takes a while.
void BorrowedDevice::resume() {
  busy_ = false;
  while (!busy_ && lender_.device && !waiting_.empty()) {
    auto [request, done] = std::move(waiting_.front());
    waiting_.pop_front(); // after it, in this function or one that it calls
    forward(std::move(request), std::move(done));
  }
}

/// Takes a request about windows that are cut.
bool BorrowedDevice::in_pieces(Request& request, Completion& done) {
  if (auto* map = std::get_if<vfio::DmaMap>(&request)) {
    if (!is_cut(*map)) return false;
    if (count_pieces(std::to_underlying(map->iova), map->size) > most_pieces)
      return done(std::unexpected(ENOSPC)), true;
    busy_ = true;
    const auto stuck = [weak = weak_from_this()] {
      const auto self = weak.lock();
      if (!self || self->revoked_) return;
      self->revoke(false); // the device may still reach the memory: the lender ends that
      self->close();
    };
    pieces()->map(std::move(*map), std::chrono::steady_clock::now() + patience_, stuck, then_resume(std::move(done)));
    return true;
  }
  const auto* unmap = std::get_if<vfio::DmaUnmap>(&request);
  if (unmap == nullptr || unmap->all) return false;
  auto cut_up = cut(*unmap);
  if (!cut_up) return done(std::unexpected(cut_up.error())), true;
  if (cut_up->empty()) return false;
  busy_ = true;
  pieces()->unmap(std::move(*cut_up), then_resume(std::move(done)));
  return true;
}

Completion BorrowedDevice::then_resume(Completion done) {
  return [self = shared_from_this(), done = std::move(done)](vfio::Reply reply) mutable {
    done(std::move(reply));
    self->resume();
  };
}

std::shared_ptr<InPieces> BorrowedDevice::pieces() {
  return std::make_shared<InPieces>([weak = weak_from_this()](Request request, Completion done) {
    const auto self = weak.lock();
    const auto device = self ? self->lender_.device : nullptr;
    if (!device || self->revoked_) return done(std::unexpected(ENODEV));
    device->submit(std::move(request), std::move(done));
  });
}

/// What the lender must unmap instead of the range: nothing else where no window in it is cut, otherwise the pieces of
/// each. EINVAL: it is, and the range ends within a window.
std::expected<std::vector<vfio::DmaUnmap>, int> BorrowedDevice::cut(const vfio::DmaUnmap& range) const {
  const auto asked = AddressRange::of(std::to_underlying(range.iova), range.size);
  std::vector<vfio::DmaUnmap> all;
  bool any = false, whole = true;
  for (const auto& entry : windows_.overlapping(asked)) {
    const auto& [from, window] = entry;
    whole = whole && asked.contains(windows_.range_of(entry));
    any = any || window.value;
    if (!window.value) all.push_back({Iova{from}, window.size});
    if (!window.value) continue;
    for (const auto& [iova, size] : pieces_of(from, window.size)) all.push_back({Iova{iova}, size});
  }
  if (!any) all.clear();
  if (any && !whole) return std::unexpected(EINVAL);
  return all;
}

void BorrowedDevice::set_error_interrupt(vfio::SetIrqs& irqs, Completion& done) {
  if ((irqs.flags & vfio::irq_action_trigger) == 0) return done(std::unexpected(EINVAL));
  error_event_ = irqs.eventfds.empty() ? Fd() : std::move(irqs.eventfds.front());
  if (revoked_ && error_event_) signal_eventfd(error_event_.get());
  done(vfio::Done{});
}

/// Takes the mappable areas away where their descriptor is the whole function and the client is not trusted; accesses
/// are messages then.
Completion BorrowedDevice::with_trust(Completion done) {
  return [self = shared_from_this(), done = std::move(done)](vfio::Reply reply) mutable {
    auto* region = reply ? std::get_if<vfio::RegionInfo>(&*reply) : nullptr;
    const auto kind = region != nullptr && region->fd ? vfio::kind_of_descriptor(region->fd.get()) : Kind::other;
    const bool whole = kind == Kind::device || kind == Kind::unknown;
    if (whole && self->trusted_) self->holds_function_ = true;
    const bool fits_all = kind == Kind::dma_buf || (kind == Kind::other && region != nullptr && is_file(region->fd));
    if (region != nullptr && region->fd && !fits_all && !self->trusted_) {
      region->fd.reset();
      region->areas.clear();
      region->flags &= ~vfio::region_flag_mmap;
      if (!std::exchange(self->trapped_, true)) self->changed_();
    }
    done(std::move(reply));
  };
}

Completion BorrowedDevice::counted(const Request& request, Completion done) {
  if (const auto* irqs = std::get_if<vfio::SetIrqs>(&request)) {
    if (irqs->count == 0) vectors_.clear();
    for (std::uint32_t i = 0; i < irqs->eventfds.size(); ++i) vectors_.insert(irqs->start + i);
    changed_();
    return done;
  }
  const auto* map = std::get_if<vfio::DmaMap>(&request);
  const auto* unmap = std::get_if<vfio::DmaUnmap>(&request);
  if (map == nullptr && unmap == nullptr) return done;
  const auto range = unmap != nullptr ? vfio::range_of(*unmap) : AddressRange{};
  return [self = shared_from_this(), adds = map != nullptr, range,
          iova = map != nullptr ? std::to_underlying(map->iova) : 0, cut = map != nullptr && is_cut(*map),
          size = map != nullptr ? map->size : 0, done = std::move(done)](vfio::Reply reply) mutable {
    if (reply && adds) self->windows_.erase(iova);
    if (reply && adds) self->windows_.add(iova, size, cut);
    if (reply && !adds) self->windows_.erase(self->windows_.beginning_in(range));
    self->changed_();
    done(std::move(reply));
  };
}

void BorrowedDevice::answer_revoked(Request& request, Completion& done) const {
  if (const auto* read = std::get_if<vfio::RegionRead>(&request))
    return done(vfio::Data{std::vector<std::byte>(read->count, std::byte{0xff})});
  if (const auto* unmap = std::get_if<vfio::DmaUnmap>(&request); unmap != nullptr && orderly_)
    return done(vfio::Unmapped{unmap->size});
  if (std::holds_alternative<vfio::RegionWrite>(request) || std::holds_alternative<vfio::SetIrqs>(request))
    return done(vfio::Done{});
  done(std::unexpected(ENODEV));
}

void BorrowedDevice::revoke(bool orderly) {
  orderly_ = orderly_ || orderly;
  if (std::exchange(revoked_, true)) return;
  if (error_event_) signal_eventfd(error_event_.get());
  for (auto& [request, done] : std::exchange(waiting_, {})) answer_revoked(request, done);
}

void BorrowedDevice::close() {
  auto lender = std::exchange(lender_, {});
  if (lender.device) lender.close([] {});
  for (auto& [request, done] : std::exchange(waiting_, {})) done(std::unexpected(ENODEV));
}

core::Usage BorrowedDevice::usage() const {
  core::Usage usage;
  usage.windows = windows_.size();
  usage.window_bytes = windows_.bytes();
  usage.vectors = vectors_.size();
  usage.trapped = trapped_;
  return usage;
}

} // namespace smartio
