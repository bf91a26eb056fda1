#include "ntb/peer.hpp"

#include "completed.hpp"
#include "page.hpp"
#include "result.hpp"

#include <algorithm>
#include <bit>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <random>

namespace smartio::fabric::ntb {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr unsigned window = 0; ///< the one in use
/// Above the addresses of interrupts, which no IOMMU translates (Intel SDM volume 3, 11.11.1).
constexpr std::uint64_t lowest_base = 1ULL << 32;

} // namespace

Peer::Peer(asio::io_context& io, std::shared_ptr<vfio::Device> device, Options options, Changed changed)
    : io_(io), device_(std::move(device)), options_(options), changed_(std::move(changed)),
      epoch_(std::random_device{}()), timer_(io) {
  state_.reason = "the other end of the bridge has not answered yet";
}

void Peer::open(asio::io_context& io, std::shared_ptr<vfio::Device> device, Options options, Changed changed,
                Opened opened) {
  std::shared_ptr<Peer> peer(new Peer(io, std::move(device), options, std::move(changed)));
  auto opening = [](std::shared_ptr<Peer> self, Opened done) -> asio::awaitable<void> {
    auto started = co_await self->start();
    if (!started) co_return done(std::unexpected(std::move(started).error()));
    self->tick();
    done(self);
  };
  asio::co_spawn(io, opening(std::move(peer), std::move(opened)), asio::detached);
}

asio::awaitable<Result<void>> Peer::start() {
  const auto self = shared_from_this();
  auto adapter = co_await completed<Result<std::shared_ptr<Adapter>>>(
      [this](auto done) { Adapter::open(device_, std::move(done)); });
  if (!adapter) co_return std::unexpected(std::move(adapter).error());
  adapter_ = std::move(*adapter);
  auto done = co_await open_aperture();
  if (!done) co_return done;
  auto events = make_events();
  if (!events) co_return std::unexpected(std::move(events).error());
  done = co_await completed<Result<void>>(
      [this, &events](auto called) { adapter_->start(std::move(*events), std::move(called)); });
  if (done) done = co_await open_window();
  if (done)
    done = co_await completed<Result<void>>([this](auto called) { adapter_->enable_doorbells(1, std::move(called)); });
  if (done) done = co_await completed<Result<void>>([this](auto called) { adapter_->enable_link(std::move(called)); });
  if (!done) co_return done;
  for (unsigned vector = 0; vector < vector_count; ++vector) watch(vector);
  co_return done;
}

/// The vectors' eventfds, for the device; ours are kept.
Result<std::vector<Fd>> Peer::make_events() {
  std::vector<Fd> given;
  for (unsigned i = 0; i < vector_count; ++i) {
    auto event = TRY(make_eventfd());
    given.push_back(TRY(event.duplicate()));
    events_.emplace_back(io_, event.release());
  }
  return given;
}

asio::awaitable<Result<void>> Peer::open_aperture() {
  auto region = co_await completed<vfio::Reply>([this](auto done) {
    device_->submit(vfio::GetRegionInfo{aperture_region},
                    [done = std::move(done)](vfio::Reply reply) mutable { done(std::move(reply)); });
  });
  auto* info = region ? std::get_if<vfio::RegionInfo>(&*region) : nullptr;
  if (info == nullptr) co_return fail_errno(EIO, "ask the bridge for its BAR 2");
  aperture_ = std::move(*info);
  co_return Result<void>{};
}

asio::awaitable<Result<void>> Peer::open_window() {
  const auto most = adapter_->shape().window_bytes[window];
  bytes_ = std::min(most, std::bit_floor(options_.most_bytes));
  base_ = adapter_->shape().alignment != 0 ? lowest_base : std::max(lowest_base, most);
  offsets_ = RangeAllocator({{page_size, bytes_ - page_size}}, {});
  auto file = make_memfd("smartio-ntb-control", page_size);
  if (!file) co_return std::unexpected(std::move(file).error());
  auto mapping = Mapping::map(file->get(), 0, page_size);
  auto copy = file->duplicate();
  if (!mapping || !copy) co_return std::unexpected(mapping ? copy.error() : mapping.error());
  control_ = std::move(*mapping);
  control_fd_ = std::move(*file);
  vfio::Request request = vfio::DmaMap{inbound(0), page_size, Access::read_write, std::move(*copy), 0};
  auto reply = co_await completed<vfio::Reply>([this, &request](auto done) {
    device_->submit(std::move(request),
                    [done = std::move(done)](vfio::Reply mapped) mutable { done(std::move(mapped)); });
  });
  if (!reply) co_return fail_errno(reply.error(), "map the control page for the bridge");
  auto done = co_await completed<Result<void>>(
      [this](auto called) { adapter_->open_window(window, Iova{base_}, bytes_, std::move(called)); });
  co_return done;
}

std::optional<std::uint64_t> Peer::reserve(std::uint64_t bytes) {
  if (bytes == 0 || bytes > bytes_) return std::nullopt;
  const auto size = whole_pages(bytes);
  const auto offset = offsets_.allocate(size, size >= huge_page_size ? huge_page_size : page_size);
  if (!offset) return std::nullopt;
  reserved_[*offset] = size;
  used_ += size;
  tell();
  return offset;
}

void Peer::release(std::uint64_t offset) {
  const auto found = reserved_.extract(offset);
  if (found.empty()) return;
  used_ -= found.mapped();
  offsets_.release(offset);
  tell();
}

void Peer::tell() {
  if (std::exchange(telling_, true)) return;
  asio::post(io_, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->telling_ = false;
    if (!self->closing_) self->changed_();
  });
}

void Peer::flush(Done done) {
  device_->submit(vfio::RegionRead{aperture_region, 0, 4}, [done = std::move(done)](vfio::Reply reply) mutable {
    if (!reply) return done(fail_errno(reply.error(), "read the peer's control page"));
    done({});
  });
}

std::optional<unsigned> Peer::claim_doorbell(std::function<void()> rung) {
  for (unsigned bit = 1; bit < doorbell_count; ++bit) {
    if ((adapter_->shape().usable_doorbells >> bit & 1) == 0 || doorbells_.contains(bit)) continue;
    doorbells_[bit] = std::move(rung);
    enable_doorbells();
    return bit;
  }
  return std::nullopt;
}

void Peer::release_doorbell(unsigned bit) {
  if (doorbells_.erase(bit) > 0) enable_doorbells();
}

void Peer::enable_doorbells() {
  std::uint64_t bits = 1;
  for (const auto& [bit, rung] : doorbells_) bits |= std::uint64_t{1} << bit;
  adapter_->enable_doorbells(bits, [](const Result<void>&) {}); // without it the peer's silence would be noticed
}

void Peer::watch(unsigned vector) {
  events_[vector].async_wait(asio::posix::stream_descriptor::wait_read,
                             [weak = weak_from_this(), vector](error_code error) {
                               const auto self = weak.lock();
                               if (error || !self || self->closing_) return;
                               drain_eventfd(self->events_[vector].native_handle());
                               if (self->doorbells_.contains(vector))
                                 self->doorbell(vector);
                               else
                                 self->look(); // the control doorbell, or the link
                               self->watch(vector);
                             });
}

/// Cleared before it is told: what rings from now on signals anew.
void Peer::doorbell(unsigned bit) {
  adapter_->clear_doorbells(std::uint64_t{1} << bit, [weak = weak_from_this(), bit](const Result<void>&) {
    const auto self = weak.lock();
    if (!self || !self->doorbells_.contains(bit)) return;
    const auto rung = self->doorbells_[bit]; // which may release it
    rung();
  });
}

} // namespace smartio::fabric::ntb
