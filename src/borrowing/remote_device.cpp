#include "remote_device.hpp"

#include "mapping.hpp"
#include "user/codec.hpp"

#include <boost/asio/post.hpp>
#include <cerrno>

namespace smartio {

using core::DeviceMessage;
using vfio::Completion;
using vfio::Request;

namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

} // namespace

RemoteDevice::RemoteDevice(boost::asio::io_context& io, core::LoanId loan, std::uint32_t session,
                           core::DevicePath device_path, std::shared_ptr<Exposures> exposures,
                           std::chrono::milliseconds timeout, Send send, Exposures::ReserveRef reserve)
    : loan_(loan), session_(session), device_path_(device_path), path_(exposures->path()), timeout_(timeout),
      send_(std::move(send)), deadline_(io), exposures_(std::move(exposures)),
      client_(std::make_shared<Exposures::Client>(std::move(reserve))) {}

RemoteDevice::~RemoteDevice() { exposures_->close(client_); }

void RemoteDevice::submit(Request request, Completion done) {
  if (over_) return done(std::unexpected(ENODEV));
  waiting_.push_back({std::move(request), std::move(done)});
  if (!busy_) next();
}

void RemoteDevice::next() {
  if (busy_ || over_ || waiting_.empty()) return;
  busy_ = true;
  auto& request = waiting_.front().request;
  if (through_aperture(request)) return;
  auto* map = std::get_if<vfio::DmaMap>(&request);
  if (map != nullptr && windows_.find(std::to_underlying(map->iova)) != nullptr) return finish(std::unexpected(EEXIST));
  if (map != nullptr && map->fd) return expose(*map);
  if (auto* irqs = std::get_if<vfio::SetIrqs>(&request)) return send_interrupts(*irqs);
  send_command(false);
}

/// Completes the request under way.
void RemoteDevice::finish(vfio::Reply reply) {
  deadline_.cancel();
  auto done = std::move(waiting_.front().done);
  waiting_.pop_front();
  busy_ = false;
  const auto self = shared_from_this();
  done(std::move(reply));
  next();
}

/// An access to registers that the lender has exposed is this node's own.
bool RemoteDevice::through_aperture(Request& request) {
  auto* read = std::get_if<vfio::RegionRead>(&request);
  auto* write = std::get_if<vfio::RegionWrite>(&request);
  if (read == nullptr && write == nullptr) return false;
  const auto found = registers_.find(read != nullptr ? read->region : write->region);
  if (found == registers_.end()) return false;
  const auto& [at, area] = found->second;
  const auto offset = read != nullptr ? read->offset : write->offset;
  const std::uint64_t bytes = read != nullptr ? read->count : write->data.size();
  if (offset < area.offset || !in_range(offset - area.offset, bytes, area.size)) return false;
  (read != nullptr ? read->region : write->region) = fabric::Path::aperture_region;
  (read != nullptr ? read->offset : write->offset) = at + offset;
  path_->device()->submit(std::move(request), [self = shared_from_this()](vfio::Reply reply) {
    if (!self->over_) self->finish(std::move(reply));
  });
  return true;
}

/// The path first: what the device is told of, it can reach.
void RemoteDevice::expose(vfio::DmaMap& map) {
  exposures_->expose(client_, std::move(map.fd), map.offset, map.size, map.access,
                     [self = shared_from_this()](std::expected<std::uint64_t, int> at) {
                       if (self->over_) return;
                       if (!at) return self->finish(std::unexpected(at.error()));
                       auto& asked = std::get<vfio::DmaMap>(self->waiting_.front().request);
                       asked.offset = *at;
                       self->windows_.add(std::to_underlying(asked.iova), asked.size, *at);
                       self->send_command(true);
                     });
}

void RemoteDevice::send_command(bool window, std::vector<std::uint8_t> doorbells) {
  const auto& request = waiting_.front().request;
  const auto payload = vfio::user::encode_request(request);
  const auto body = payload.body.bytes();
  sent_.assign(body.begin(), body.end());
  DeviceMessage message{.loan = loan_,
                        .session = session_,
                        .path = device_path_,
                        .kind = DeviceMessage::Kind::command,
                        .number = ++number_,
                        .code = static_cast<std::uint16_t>(vfio::user::command_of(request)),
                        .window = window,
                        .doorbells = std::move(doorbells),
                        .payload = std::string(text_of(body))};
  message.payload += text_of(payload.tail);
  awaits_reply_ = true;
  deadline_.expires_after(timeout_);
  deadline_.async_wait([weak = weak_from_this()](boost::system::error_code error) {
    if (const auto self = weak.lock(); self && !error) self->lose();
  });
  send_(message);
}

/// Eventfds stay here, each with a doorbell while there are any.
void RemoteDevice::send_interrupts(vfio::SetIrqs& irqs) {
  const bool trigger = (irqs.flags & vfio::irq_action_trigger) != 0;
  const bool assigns = trigger && (irqs.flags & vfio::irq_data_eventfd) != 0;
  if (trigger && irqs.count == 0) disconnect_interrupts(irqs.index);
  if (assigns && irqs.eventfds.empty()) disconnect_interrupts(irqs.index, irqs.start, irqs.count);
  std::vector<std::uint8_t> doorbells;
  if (irqs.eventfds.size() > 255) return finish(std::unexpected(EINVAL));
  for (auto& event : std::exchange(irqs.eventfds, {}))
    doorbells.push_back(
        connect_interrupt(irqs.index, irqs.start + static_cast<std::uint32_t>(doorbells.size()), std::move(event)));
  send_command(false, std::move(doorbells));
}

std::uint8_t RemoteDevice::connect_interrupt(std::uint32_t index, std::uint32_t vector, Fd event) {
  auto& interrupt = interrupts_.try_emplace({index, vector}, Interrupt{{}, core::no_doorbell}).first->second;
  interrupt.event = std::move(event);
  if (interrupt.doorbell != core::no_doorbell) return interrupt.doorbell;
  const auto bit = path_->claim_doorbell([weak = weak_from_this(), index, vector] {
    const auto self = weak.lock();
    const auto found = self ? self->interrupts_.find({index, vector}) : decltype(self->interrupts_.end()){};
    if (self && found != self->interrupts_.end()) signal_eventfd(found->second.event.get());
  });
  if (bit) interrupt.doorbell = static_cast<std::uint8_t>(*bit);
  return interrupt.doorbell;
}

void RemoteDevice::disconnect_interrupts(std::uint32_t index, std::uint64_t start, std::uint64_t count) {
  std::erase_if(interrupts_, [=, this](const auto& entry) {
    if (entry.first.first != index || entry.first.second < start || entry.first.second - start >= count) return false;
    if (entry.second.doorbell != core::no_doorbell) path_->release_doorbell(entry.second.doorbell);
    return true;
  });
}

void RemoteDevice::received(DeviceMessage message) {
  if (over_) return;
  if (message.kind == DeviceMessage::Kind::interrupt) {
    const auto found = interrupts_.find({message.number, message.code});
    if (found != interrupts_.end()) signal_eventfd(found->second.event.get());
    return;
  }
  const bool awaited = std::exchange(awaits_reply_, false);
  if (message.kind != DeviceMessage::Kind::reply || !awaited || message.number != number_) return lose();
  auto reply = decode(message);
  const auto* map = std::get_if<vfio::DmaMap>(&waiting_.front().request);
  const auto* unmap = std::get_if<vfio::DmaUnmap>(&waiting_.front().request);
  std::optional<vfio::DmaUnmap> gone; // that the lent device does not reach
  if (map != nullptr && !reply) gone = {map->iova, 1};
  if (unmap != nullptr && reply) gone = *unmap;
  if (!gone) return finish(std::move(reply));
  deadline_.cancel();
  unexpose(*gone, [self = shared_from_this(), reply = std::move(reply)]() mutable {
    if (!self->over_) self->finish(std::move(reply));
  });
}

vfio::Reply RemoteDevice::decode(const DeviceMessage& message) {
  if (message.code != 0) return std::unexpected(message.code);
  const auto& request = waiting_.front().request;
  std::vector<Fd> fds;
  if (message.window) { // in place of the descriptor; where the path has none, one that nobody gets
    auto copy = path_->aperture().fd ? path_->aperture().fd.duplicate() : make_eventfd();
    if (copy) fds.push_back(std::move(*copy));
  }
  const auto command = vfio::user::command_of(request);
  auto answer = vfio::user::decode_answer(command, sent_, std::as_bytes(std::span(message.payload)), std::move(fds));
  if (!answer) return std::unexpected(EPROTO);
  if (auto* info = std::get_if<vfio::RegionInfo>(&*answer))
    *info = with_aperture(std::get<vfio::GetRegionInfo>(request).index, std::move(*info), message.window);
  return std::move(*answer);
}

/// The offset of a window of the lender's becomes that of the descriptor; where the path has none, nothing can
/// be mapped, and accesses are this node's.
vfio::RegionInfo RemoteDevice::with_aperture(std::uint32_t region, vfio::RegionInfo info, bool window) {
  const auto& aperture = path_->aperture();
  const bool fits =
      window && info.areas.size() == 1 && in_range(info.fd_offset, info.size, path_->state().aperture_bytes);
  if (fits) registers_[region] = {info.fd_offset, info.areas.front()};
  if (fits && aperture.fd && !aperture.areas.empty()) {
    info.fd_offset += aperture.fd_offset;
    return info;
  }
  info.fd.reset();
  info.areas.clear();
  info.flags &= ~vfio::region_flag_mmap;
  return info;
}

void RemoteDevice::unexpose(const vfio::DmaUnmap& range, std::move_only_function<void()> done) {
  const auto last = std::make_shared<std::move_only_function<void()>>(std::move(done));
  const std::shared_ptr<void> finally(nullptr, [last](void*) { (*last)(); });
  const auto found = windows_.beginning_in(vfio::range_of(range));
  std::vector<std::uint64_t> exposed;
  for (const auto& [iova, window] : found) exposed.push_back(window.value);
  windows_.erase(found);
  for (const auto at : exposed) exposures_->unexpose(at, [finally] {});
}

void RemoteDevice::lose() {
  if (over_) return;
  close();
  if (lost_) std::exchange(lost_, nullptr)();
}

void RemoteDevice::close() {
  if (std::exchange(over_, true)) return;
  deadline_.cancel();
  send_({.loan = loan_, .session = session_, .path = device_path_, .kind = DeviceMessage::Kind::closed});
  for (const auto index : {vfio::intx, vfio::msi, vfio::msix}) disconnect_interrupts(index);
  exposures_->close(client_);
  const auto self = shared_from_this();
  for (auto& [request, done] : std::exchange(waiting_, {})) done(std::unexpected(ECANCELED));
}

} // namespace smartio
