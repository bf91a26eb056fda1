#include "ntb_service.hpp"

#include "result.hpp"

namespace smartio::sim {

using ntb::Side;

namespace {
constexpr std::chrono::milliseconds training_time{200};
} // namespace

NtbService::NtbService(boost::asio::io_context& io, const ntb::Chip& chip, std::uint64_t window_bytes)
    : io_(io), training_(io), bridge_(chip, window_bytes, [this] { train(); }) {}

Result<void> NtbService::listen(Side side, const std::string& path) {
  end(side).server = TRY(vfio::user::Server::listen(
      io_, path, [this, side](const ::ucred&) { return accept(side); }, [this, side] { bridge_.detach(side); }));
  return {};
}

Result<void> NtbService::listen_for_faults(const std::string& path) {
  faults_ = TRY(FaultSocket::listen(io_, path, [this](std::string_view line) {
    const auto faults = ntb::changed_by(bridge_.faults(), line);
    if (faults) bridge_.set_faults(*faults);
    return faults.has_value();
  }));
  return {};
}

std::expected<std::shared_ptr<vfio::Device>, int> NtbService::accept(Side side) {
  if (bridge_.attached(side)) return std::unexpected(EBUSY);
  ++end(side).clients;
  return bridge_.attach(side, messages_to(side));
}

/// The bridge sends messages only while the client is there, and then it is the server's only one.
ntb::Messages NtbService::messages_to(Side side) {
  return {[this, side](Iova iova, std::uint32_t bytes, vfio::Completion done) {
            const auto connection = end(side).server->connection();
            if (!connection) return done(std::unexpected(ENODEV));
            connection->dma_read(iova, bytes, std::move(done));
          },
          [this, side](Iova iova, std::vector<std::byte> data, vfio::Completion done) {
            const auto connection = end(side).server->connection();
            if (!connection) return done(std::unexpected(ENODEV));
            connection->dma_write(iova, std::move(data), std::move(done));
          }};
}

/// A link that is given up and asked for again meanwhile starts anew.
void NtbService::train() {
  training_.expires_after(training_time);
  training_.async_wait([this](const boost::system::error_code& error) {
    if (!error) bridge_.trained();
  });
}

std::string NtbService::counters() const {
  return fmt::format(R"({{"model":"{}","link_up":{},"link_changes":{},"a":{},"b":{}}})", bridge_.chip().name,
                     bridge_.link_up(), bridge_.link_changes(), counters_of(Side::a), counters_of(Side::b));
}

std::string NtbService::counters_of(Side side) const {
  const auto& end = ends_[static_cast<std::size_t>(side)];
  const auto socket = end.server ? end.server->counters() : vfio::user::Counters();
  const ntb::Counters now = bridge_.counters(side);
  return fmt::format(
      R"({{"messages":{},"errors":{},"malformed":{},"clients":{},"windows":{},"reads":{},"read_bytes":{},)"
      R"("unanswered_reads":{},"crossed_reads":{},"writes":{},"written_bytes":{},"dropped_writes":{},"doorbells":{},)"
      R"("lost_doorbells":{},"interrupts":{},"dma_messages":{},"refused_writes":{},"resets":{}}})",
      socket.messages, socket.errors, socket.malformed, end.clients, bridge_.memory_windows(side), now.reads,
      now.read_bytes, now.unanswered_reads, now.crossed_reads, now.writes, now.written_bytes, now.dropped_writes,
      now.doorbells, now.lost_doorbells, now.interrupts, now.messages, now.refused_writes, now.resets);
}

} // namespace smartio::sim
