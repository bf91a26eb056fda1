// The client's commands: handed to the device in order, answered in order.
#include "connection.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <utility>

namespace smartio::vfio::user {

namespace {

// What may wait for the device at a time; beyond, the client is not read until half of it is done.
constexpr std::size_t most_calls = 1024;
constexpr std::size_t most_weight = 4 * 1024 * 1024;

// QEMU waits 5 s for a reply, and loses its place in the stream when one with data comes later.
constexpr std::chrono::milliseconds call_time{4500};

/// Completes one call, with EIO when it is dropped without an answer.
class Answerer {
public:
  Answerer(std::weak_ptr<Connection> connection, std::uint64_t number,
           void (*complete)(Connection&, std::uint64_t, Reply)) noexcept
      : connection_(std::move(connection)), number_(number), complete_(complete) {}
  Answerer(Answerer&&) noexcept = default;
  Answerer& operator=(Answerer&&) = delete;
  ~Answerer() { answer(std::unexpected(EIO)); }
  void operator()(Reply reply) { answer(std::move(reply)); }

private:
  void answer(Reply reply) {
    if (const auto connection = std::exchange(connection_, {}).lock())
      complete_(*connection, number_, std::move(reply));
  }
  std::weak_ptr<Connection> connection_;
  std::uint64_t number_;
  void (*complete_)(Connection&, std::uint64_t, Reply);
};

std::size_t weight_of(const Request& request) {
  if (const auto* read = std::get_if<RegionRead>(&request)) return read->count;
  if (const auto* write = std::get_if<RegionWrite>(&request)) return write->data.size();
  return 0;
}

bool covers(const DmaUnmap& range, const DmaUnmap& window) {
  const auto first = std::to_underlying(window.iova), from = std::to_underlying(range.iova);
  return range.all || (first >= from && in_range(first - from, window.size, range.size));
}

} // namespace

void Connection::State::call(Message message) {
  const auto& header = message.header;
  auto& entry = calls.emplace_back(header.id, header.command, (header.flags & flag_no_reply) != 0);
  entry.deadline = Clock::now() + call_time;
  const auto echoed = std::min(message.payload.size(), entry.sent.size());
  if (echoed != 0) std::memcpy(entry.sent.data(), message.payload.data(), echoed);
  const auto number = first_call + calls.size() - 1;
  if (header.command == Command::dma_map && message.fds.size() > 1)
    device->client_refused(fmt::format("the client gave {} descriptors for one window of its memory, which takes one; "
                                       "SPDK does so, with one for each huge page, unless it is started with -g "
                                       "(--single-file-segments)",
                                       message.fds.size()));
  auto request = decode_request(header.command, message.payload, std::move(message.fds));
  if (!request) return complete(number, std::unexpected(request.error()));
  if (auto* write = std::get_if<RegionWrite>(&*request)) write->posted = entry.no_reply;
  entry.weight = weight_of(*request);
  weight += entry.weight;
  carry_out(number, std::move(*request));
  control_flow();
  watch_calls();
}

void Connection::State::carry_out(std::uint64_t number, Request request) {
  if (const int error = view->check(request); error != 0) return complete(number, std::unexpected(error));
  if (const int error = check_descriptors(request); error != 0) return complete(number, std::unexpected(error));
  if (std::holds_alternative<GetInfo>(request)) return complete(number, view->info);
  if (std::holds_alternative<GetRegionInfo>(request)) return complete(number, Done{}); // see encode
  if (const auto* get = std::get_if<GetIrqInfo>(&request)) return complete(number, view->irqs[get->index]);
  if (const auto* range = std::get_if<DmaUnmap>(&request)) unmaps.emplace(number, *range);
  const auto kept = device; // it may close this connection
  kept->submit(std::move(request),
               Answerer(owner.weak_from_this(), number, [](Connection& connection, std::uint64_t call, Reply reply) {
                 connection.state_->settle_late(call, reply.has_value());
                 connection.state_->complete(call, std::move(reply));
               }));
}

void Connection::State::complete(std::uint64_t number, Reply reply) {
  if (phase != Phase::ready) return;
  if (number < first_call) return control_flow();
  auto& call = calls[number - first_call];
  if (call.done) return; // too late
  if (number != first_call) {
    call.reply = std::move(reply);
    call.done = true;
    return;
  }
  answer(call, reply);
  drop_first_call();
  for (; !calls.empty() && calls.front().done; drop_first_call()) answer(calls.front(), calls.front().reply);
  control_flow();
}

/// The client was told that the window is not there, and may use the memory for something else.
void Connection::State::undo(const DmaUnmap& window) {
  const auto kept = device;
  kept->submit(window, [weak = owner.weak_from_this()](const Reply& reply) {
    if (const auto self = weak.lock(); self && !reply) self->state_->finish(true);
  });
}

/// The device has completed a map or an unmap. What the client itself unmaps, after the window, is not there when the
/// device has done both; until then nobody else unmaps it.
void Connection::State::settle_late(std::uint64_t number, bool success) {
  if (phase != Phase::ready) return;
  const auto unmap = unmaps.extract(number);
  if (const auto late = late_windows.find(number); late != late_windows.end()) {
    late->second.mapped = success;
    if (!success) late_windows.erase(late);
  }
  std::vector<DmaUnmap> left;
  std::erase_if(late_windows, [&](const auto& late) {
    const auto& [map, window] = late;
    const auto reaches = [&](std::uint64_t call, const DmaUnmap& range) {
      return call > map && covers(range, window.window);
    };
    if (unmap && success && reaches(unmap.key(), unmap.mapped())) return true;
    const auto under_way = [&](const auto& other) { return reaches(other.first, other.second); };
    if (!window.mapped || std::ranges::any_of(unmaps, under_way)) return false;
    left.push_back(window.window);
    return true;
  });
  for (const auto& window : left) undo(window);
}

void Connection::State::drop_first_call() {
  weight -= calls.front().weight;
  calls.pop_front();
  ++first_call;
}

void Connection::State::answer(const Call& call, const Reply& reply) {
  const auto payload = encode(call, reply);
  const Header header{call.id, call.command, 0, call.no_reply ? flag_no_reply : type_reply, 0};
  if (!payload) return refuse(header, payload.error());
  if (!call.no_reply) stream->send(header, payload->body.bytes(), payload->tail, payload->fds);
}

std::expected<Payload, int> Connection::State::encode(const Call& call, const Reply& reply) const {
  if (!reply) return std::unexpected(reply.error() > 0 ? reply.error() : EIO);
  if (call.command != Command::get_region_info) return encode_answer(call.command, call.sent, *reply);
  const auto index = load<RegionInfoBody>(call.sent)->index;
  return encode_region_info(call.sent, view->regions[index]);
}

void Connection::State::control_flow() {
  if (phase != Phase::ready) return;
  const auto share = held_up ? 2U : 1U;
  const auto outstanding = calls.size() + late_windows.size() + unmaps.size();
  const bool much = outstanding >= most_calls / share || weight >= most_weight / share;
  if (much == std::exchange(held_up, much)) return;
  if (much) return stream->pause();
  stream->resume();
}

/// One timer, for the oldest call. It is not set again for each reply, but looks when it is due.
void Connection::State::watch_calls() {
  if (phase != Phase::ready || calls.empty() || std::exchange(call_timer_armed, true)) return;
  call_timer.expires_at(calls.front().deadline);
  call_timer.async_wait([weak = owner.weak_from_this()](boost::system::error_code error) {
    const auto self = weak.lock();
    if (error || !self) return;
    self->state_->call_timer_armed = false;
    self->state_->calls_due();
  });
}

/// What the device does not complete in time is answered for it: reads as the root complex does, with ones.
void Connection::State::calls_due() {
  const auto now = Clock::now();
  while (phase == Phase::ready && !calls.empty() && calls.front().deadline <= now) {
    const auto number = first_call;
    const auto [command, sent] = std::pair(calls.front().command, calls.front().sent);
    if (command != Command::region_read)
      complete(number, std::unexpected(ETIMEDOUT));
    else
      complete(number, Data{std::vector(load<AccessBody>(sent)->count, std::byte{0xff})});
    if (command != Command::dma_map) continue;
    const auto map = load<DmaMapBody>(sent);
    late_windows.emplace(number, LateWindow{{Iova{map->iova}, map->size}});
    control_flow();
  }
  watch_calls();
}

} // namespace smartio::vfio::user
