#include "remote_client.hpp"

#include "mapping.hpp"
#include "user/codec.hpp"

#include <algorithm>
#include <cerrno>

namespace smartio {

using core::DeviceMessage;

namespace {

constexpr std::size_t most_commands = 64; ///< a borrower's node sends one at a time

} // namespace

RemoteClient::RemoteClient(boost::asio::io_context& io, core::LoanId loan, std::uint32_t session,
                           core::DevicePath device_path, std::shared_ptr<Exposures> exposures,
                           std::shared_ptr<RegisterWindows> peers, Send send)
    : io_(io), loan_(loan), session_(session), device_path_(device_path), exposures_(std::move(exposures)),
      path_(exposures_->path()), peers_(std::move(peers)), send_(std::move(send)) {}

void RemoteClient::admitted(std::shared_ptr<vfio::Device> device) {
  if (over_) return;
  device_ = std::move(device);
  vfio::user::DeviceView::load(device_, [self = shared_from_this()](auto loaded) {
    if (!loaded) return self->close();
    self->view_ = std::move(*loaded);
    self->next();
  });
}

void RemoteClient::received(DeviceMessage command) {
  if (over_) return;
  if (command.kind != DeviceMessage::Kind::command || commands_.size() >= most_commands) return close();
  commands_.push_back(std::move(command));
  next();
}

void RemoteClient::next() {
  if (busy_ || over_ || !view_ || commands_.empty()) return;
  busy_ = true;
  auto command = std::move(commands_.front());
  commands_.pop_front();
  auto request = decode(command);
  if (!request) return answer(command, std::unexpected(request.error()));
  const auto* info = std::get_if<vfio::GetRegionInfo>(&*request);
  const auto region = info != nullptr ? std::optional(info->index) : std::nullopt;
  const bool unmaps = std::holds_alternative<vfio::DmaUnmap>(*request);
  device_->submit(std::move(*request),
                  [self = shared_from_this(), command = std::move(command), region, unmaps](vfio::Reply reply) mutable {
                    if (self->over_) return;
                    if (unmaps && reply) return self->answer_unmap(std::move(command), std::move(reply));
                    auto* found = reply && region ? std::get_if<vfio::RegionInfo>(&*reply) : nullptr;
                    if (found != nullptr) return self->expose(std::move(command), *region, std::move(*found));
                    self->answer(command, std::move(reply));
                  });
}

void RemoteClient::answer(const DeviceMessage& command, vfio::Reply reply) {
  DeviceMessage message{.loan = loan_,
                        .session = session_,
                        .path = device_path_,
                        .kind = DeviceMessage::Kind::reply,
                        .number = command.number};
  std::expected<vfio::user::Payload, int> payload = std::unexpected(EIO);
  const auto asked =
      std::as_bytes(std::span(command.payload)).first(std::min(command.payload.size(), vfio::user::echo_size));
  if (reply) payload = vfio::user::encode_answer(static_cast<vfio::user::Command>(command.code), asked, *reply);
  if (!reply) payload = std::unexpected(reply.error());
  if (payload) {
    for (const auto part : {payload->body.bytes(), payload->tail})
      message.payload.append(reinterpret_cast<const char*>(part.data()), part.size());
    message.window = !payload->fds.empty();
  } else {
    message.code = static_cast<std::uint16_t>(payload.error());
  }
  send_(message);
  busy_ = false;
  next();
}

/// What the device wrote before has arrived when the client hears that it reaches the memory no longer.
void RemoteClient::answer_unmap(DeviceMessage command, vfio::Reply reply) {
  path_->flush(
      [self = shared_from_this(), command = std::move(command), reply = std::move(reply)](const Result<void>&) mutable {
        if (!self->over_) self->answer(command, std::move(reply));
      });
}

/// The descriptors that stand for what the message names: of the aperture for a window, new eventfds for interrupts.
std::expected<std::vector<Fd>, int> RemoteClient::descriptors(const DeviceMessage& command) const {
  std::vector<Fd> fds;
  for (std::size_t i = 0; i < command.doorbells.size(); ++i) {
    auto event = make_eventfd();
    if (!event) return std::unexpected(EMFILE);
    fds.push_back(std::move(*event));
  }
  if (!command.window) return fds;
  if (!path_->aperture().fd) return std::unexpected(EOPNOTSUPP); // nothing of it can be mapped for another device
  auto copy = path_->aperture().fd.duplicate();
  if (!copy) return std::unexpected(EMFILE);
  fds.push_back(std::move(*copy));
  return fds;
}

std::expected<vfio::Request, int> RemoteClient::decode(const DeviceMessage& command) {
  const auto code = static_cast<vfio::user::Command>(command.code);
  if (command.window && code != vfio::user::Command::dma_map) return std::unexpected(EINVAL);
  if (!command.doorbells.empty() && code != vfio::user::Command::set_irqs) return std::unexpected(EINVAL);
  auto fds = descriptors(command);
  if (!fds) return std::unexpected(fds.error());
  auto request = vfio::user::decode_request(code, std::as_bytes(std::span(command.payload)), std::move(*fds));
  if (!request) return request;
  int error = view_->check(*request);
  if (error == 0) error = place(*request, command);
  if (error != 0) return std::unexpected(error);
  return request;
}

/// Turns what counts in the path's terms into what counts here.
int RemoteClient::place(vfio::Request& request, const DeviceMessage& command) {
  if (auto* map = std::get_if<vfio::DmaMap>(&request); map != nullptr && map->fd) {
    if (!in_range(map->offset, map->size, path_->state().aperture_bytes)) return EINVAL;
    map->offset += path_->aperture().fd_offset;
  }
  if (auto* irqs = std::get_if<vfio::SetIrqs>(&request)) return relay(*irqs, command);
  return 0;
}

/// Without room in the path's window the region is there all the same: each access is a message then.
void RemoteClient::expose(DeviceMessage command, std::uint32_t region, vfio::RegionInfo info) {
  if (info.areas.empty() || !info.fd) return answer_region(command, std::move(info), false);
  const auto area =
      *std::ranges::max_element(info.areas, {}, &vfio::RegionArea::size); // for vfio-user: one, the longest
  info.areas = {area};
  if (const auto found = exports_.find(region); found != exports_.end()) {
    info.fd_offset = found->second.offset;
    return answer_region(command, std::move(info), true);
  }
  const auto size = info.size;
  exposures_->reserve(size, [self = shared_from_this(), command = std::move(command), region,
                             info = std::move(info)](std::optional<std::uint64_t> offset) mutable {
    if (!self->over_) return self->expose_at(offset, std::move(command), region, std::move(info));
    if (offset) self->path_->release(*offset);
  });
}

void RemoteClient::expose_at(std::optional<std::uint64_t> offset, DeviceMessage command, std::uint32_t region,
                             vfio::RegionInfo info) {
  auto copy = info.fd.duplicate();
  if (offset && !copy) path_->release(*offset);
  if (!offset || !copy) return answer_region(command, std::move(info), false);
  const auto area = info.areas.front();
  vfio::DmaMap map{path_->inbound(*offset + area.offset), area.size, Access::read_write, std::move(*copy),
                   info.fd_offset + area.offset};
  const auto iova = std::to_underlying(map.iova);
  const auto noted = peers_->mapping(path_->device(), map, windows_);
  if (!noted) path_->release(*offset);
  if (!noted) return answer_region(command, std::move(info), false);
  path_->device()->submit(std::move(map),
                          [self = shared_from_this(), command = std::move(command), region, window = *noted, iova,
                           exported = Export{*offset, area}, info = std::move(info)](const vfio::Reply& reply) mutable {
                            if (!reply && window) self->peers_->failed(*window);
                            if (!reply) self->path_->release(exported.offset);
                            if (reply) self->windows_->add(iova, exported.area.size);
                            if (reply && self->over_) return self->withdraw(exported);
                            if (self->over_) return;
                            if (!reply) return self->answer_region(command, std::move(info), false);
                            self->exports_.emplace(region, exported);
                            info.fd_offset = exported.offset;
                            self->answer_region(command, std::move(info), true);
                          });
}

void RemoteClient::answer_region(const DeviceMessage& command, vfio::RegionInfo info, bool window) {
  if (!window) {
    info.fd.reset();
    info.areas.clear();
    info.flags &= ~vfio::region_flag_mmap;
  }
  answer(command, std::move(info));
}

/// The device signals here; each signal goes on to the client.
int RemoteClient::relay(vfio::SetIrqs& irqs, const DeviceMessage& command) {
  if ((irqs.flags & vfio::irq_action_trigger) == 0) return 0;
  const bool taken_away = irqs.count == 0 || ((irqs.flags & vfio::irq_data_eventfd) != 0 && irqs.eventfds.empty());
  const auto within = [&irqs](const auto& relay) {
    const auto& [index, vector] = relay.first;
    return index == irqs.index && (irqs.count == 0 || (vector >= irqs.start && vector - irqs.start < irqs.count));
  };
  if (taken_away) std::erase_if(relays_, within);
  for (std::uint32_t i = 0; i < irqs.eventfds.size(); ++i) {
    auto copy = irqs.eventfds[i].duplicate();
    if (!copy) return EMFILE;
    const Vector vector{irqs.index, irqs.start + i};
    relays_[vector] =
        std::make_shared<Relay>(boost::asio::posix::stream_descriptor(io_, copy->release()), command.doorbells[i]);
    watch(vector);
  }
  return 0;
}

void RemoteClient::watch(Vector vector) {
  const auto relay = relays_.at(vector);
  relay->event.async_wait(
      boost::asio::posix::stream_descriptor::wait_read,
      [weak = weak_from_this(), vector, held = std::weak_ptr(relay)](boost::system::error_code error) {
        const auto self = weak.lock();
        const auto watched = held.lock(); // not kept by its own wait: it ends with its place in relays_
        if (error || !self || self->over_ || !watched) return;
        const auto current = self->relays_.find(vector);
        if (current == self->relays_.end() || current->second != watched) return;
        drain_eventfd(watched->event.native_handle());
        self->deliver(vector);
        self->watch(vector);
      });
}

/// An interrupt must not overtake the data that it announces: those are pushed through the path first.
void RemoteClient::deliver(Vector vector) {
  path_->flush([weak = weak_from_this(), vector](const Result<void>&) {
    const auto self = weak.lock();
    const auto found = self ? self->relays_.find(vector) : decltype(self->relays_.end()){};
    if (!self || self->over_ || found == self->relays_.end()) return;
    if (found->second->doorbell != core::no_doorbell)
      return self->path_->ring(found->second->doorbell, [](const Result<void>&) {});
    self->send_({.loan = self->loan_,
                 .session = self->session_,
                 .path = self->device_path_,
                 .kind = DeviceMessage::Kind::interrupt,
                 .number = vector.first,
                 .code = static_cast<std::uint16_t>(vector.second)});
  });
}

/// The room is used again only once nothing is reached there.
void RemoteClient::withdraw(const Export& exported) {
  const vfio::DmaUnmap range{path_->inbound(exported.offset + exported.area.offset), exported.area.size};
  path_->device()->submit(range, [path = path_, peers = peers_, windows = windows_, range,
                                  offset = exported.offset](const vfio::Reply& reply) {
    if (!reply) return;
    peers->unmapped(path->device().get(), range);
    windows->erase(std::to_underlying(range.iova));
    path->release(offset);
  });
}

void RemoteClient::close() {
  if (std::exchange(over_, true)) return;
  relays_.clear();
  commands_.clear();
  for (const auto& [region, exported] : exports_) withdraw(exported);
  exports_.clear();
  device_.reset();
  send_({.loan = loan_, .session = session_, .path = device_path_, .kind = DeviceMessage::Kind::closed});
}

} // namespace smartio
