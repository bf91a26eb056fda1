// The client's memory, read and written by messages.
#include "connection.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace smartio::vfio::user {

using boost::system::error_code;

namespace {
constexpr std::uint32_t most_bytes = 64 * 1024; // QEMU 11.1 cuts replies that do not fit its socket buffer
constexpr std::chrono::seconds reply_time{5};
constexpr unsigned most_abandoned = 64;
} // namespace

void Connection::dma_read(Iova iova, std::uint32_t count, Completion done) {
  state_->send_dma(Command::dma_read, iova, count, {}, std::move(done));
}

void Connection::dma_write(Iova iova, std::vector<std::byte> data, Completion done) {
  const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(data.size(), UINT32_MAX));
  state_->send_dma(Command::dma_write, iova, count, data, std::move(done));
}

void Connection::State::send_dma(Command command, Iova iova, std::uint32_t count, std::span<const std::byte> data,
                                 Completion done) {
  if (phase != Phase::ready) return done(std::unexpected(ENODEV));
  if (count == 0 || count > std::min(most_bytes, client.max_data_xfer_size)) return done(std::unexpected(EINVAL));
  if (dmas.full()) return done(std::unexpected(ENOBUFS));
  const Header header{dmas.next_id(), command, 0, type_command, 0};
  dmas.add({command, iova, count, Clock::now() + reply_time, std::move(done)});
  stream->send(header, encode_dma(iova, count).bytes(), data);
  watch_dma();
}

/// The reply to one of ours, or the client is out of step.
void Connection::State::dma_reply(const Message& message) {
  const auto& header = message.header;
  const auto* asked = dmas.find(header.id);
  if (asked == nullptr || asked->command != header.command || !message.fds.empty()) return malformed();
  Reply reply = Done{};
  if ((header.flags & flag_error) != 0) {
    if (!message.payload.empty()) return malformed();
    const bool usable = header.error > 0 && header.error < 4096;
    reply = std::unexpected(usable ? static_cast<int>(header.error) : EIO);
  } else if (header.command == Command::dma_read || !message.payload.empty()) { // QEMU 10 repeats nothing of a write
    const auto access = decode_dma(message.payload, header.command == Command::dma_read);
    if (!access || access->count != asked->count || access->iova != asked->iova) return malformed();
    if (header.command == Command::dma_read) reply = Data{{access->data.begin(), access->data.end()}};
  }
  auto dma = dmas.take(header.id);
  if (!dma.done) {
    --abandoned;
    return;
  }
  dma.done(std::move(reply));
}

/// One timer, for the oldest that somebody waits for. It is not set again for each reply, but looks when it is due.
void Connection::State::watch_dma() {
  const auto* oldest = dmas.find_if([](const Dma& dma) { return static_cast<bool>(dma.done); });
  if (phase != Phase::ready || oldest == nullptr || timer_armed) return;
  timer_armed = true;
  timer.expires_at(oldest->deadline);
  timer.async_wait([weak = owner.weak_from_this()](error_code error) {
    const auto self = weak.lock();
    if (error || !self) return;
    self->state_->timer_armed = false;
    self->state_->dma_due();
  });
}

/// A late reply must still be recognised, so its entry stays; a client that owes too many is gone.
void Connection::State::dma_due() {
  const auto late = [now = Clock::now()](const Dma& dma) { return dma.done && dma.deadline <= now; };
  while (auto* dma = dmas.find_if(late)) {
    ++abandoned;
    std::exchange(dma->done, nullptr)(std::unexpected(ETIMEDOUT));
    if (phase != Phase::ready) return;
  }
  if (abandoned > most_abandoned) return finish(true);
  watch_dma();
}

} // namespace smartio::vfio::user
