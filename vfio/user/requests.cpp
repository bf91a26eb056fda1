// The client's commands and the server's replies. What does not fit one message is sent as several.
#include "client_state.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <sys/stat.h>
#include <utility>

namespace smartio::vfio::user {

namespace {

constexpr std::uint32_t most_argsz = 64 * 1024; ///< of a region's info

/// One answer out of several: the first error, or Done, or all the data.
struct Gather {
  explicit Gather(Completion completion) : done(std::move(completion)) {}
  Gather(const Gather&) = delete;
  Gather& operator=(const Gather&) = delete;
  ~Gather() {
    if (error != 0)
      done(std::unexpected(error));
    else if (data.empty())
      done(Done{});
    else
      done(Data{std::move(data)});
  }

  Completion done;
  std::vector<std::byte> data;
  int error = 0;
};

/// Completes one part, whose data (if any) are the whole's from `offset` on.
Completion part_of(std::shared_ptr<Gather> gather, std::size_t offset = 0) {
  return [gather = std::move(gather), offset](Reply reply) mutable {
    const auto whole = std::move(gather);
    if (!reply) {
      if (whole->error == 0) whole->error = reply.error();
    } else if (const auto* part = std::get_if<Data>(&*reply)) {
      std::ranges::copy(part->bytes, whole->data.begin() + static_cast<std::ptrdiff_t>(offset));
    }
  };
}

/// Whether what the server gave for a region can be registers: pipes, directories and empty files can not.
bool holds_registers(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return false;
  const auto type = status.st_mode & S_IFMT;
  return type == S_IFREG ? status.st_size > 0 : type == 0 || type == S_IFCHR; // VFIO's own have no type
}

/// Its accesses are messages then.
void map_nothing(RegionInfo& info) {
  info.fd.reset();
  info.areas.clear();
  info.flags &= ~region_flag_mmap;
}

} // namespace

void Client::submit(Request request, Completion done) { state_->submit(std::move(request), std::move(done)); }

void Client::State::submit(Request request, Completion done) {
  if (auto* set = std::get_if<SetIrqs>(&request)) return submit_irqs(std::move(*set), std::move(done));
  if (const auto* read = std::get_if<RegionRead>(&request)) return submit_read(*read, std::move(done));
  if (const auto* write = std::get_if<RegionWrite>(&request)) return submit_write(*write, std::move(done));
  if (memory) done = memory->noting(request, std::move(done));
  send(std::move(request), std::move(done));
}

/// The server says how many descriptors it takes with a message.
void Client::State::submit_irqs(SetIrqs set, Completion done) {
  const auto most = std::clamp<std::size_t>(server.max_msg_fds, 1, max_fds);
  const bool bad = set.bools.size() > server.max_data_xfer_size - sizeof(SetIrqsBody) ||
                   (!set.eventfds.empty() && set.eventfds.size() != set.count);
  if (bad) return done(std::unexpected(EINVAL));
  if (set.eventfds.size() <= most) return send(std::move(set), std::move(done));
  const auto gather = std::make_shared<Gather>(std::move(done));
  for (std::size_t at = 0; at < set.eventfds.size(); at += most) {
    const auto count = std::min(most, set.eventfds.size() - at);
    SetIrqs part{set.flags, set.index, static_cast<std::uint32_t>(set.start + at), static_cast<std::uint32_t>(count),
                 {},        {}};
    const auto first = set.eventfds.begin() + static_cast<std::ptrdiff_t>(at);
    std::move(first, first + static_cast<std::ptrdiff_t>(count), std::back_inserter(part.eventfds));
    send(std::move(part), part_of(gather));
  }
}

void Client::State::submit_read(const RegionRead& read, Completion done) {
  const auto most = std::min(server.max_data_xfer_size, max_transfer);
  if (read.count == 0 || !in_range(read.offset, read.count, UINT64_MAX)) return done(std::unexpected(EINVAL));
  if (read.count <= most) return send(read, std::move(done));
  const auto gather = std::make_shared<Gather>(std::move(done));
  gather->data.resize(read.count);
  for (std::uint32_t at = 0; at < read.count;) {
    const auto count = std::min(most, read.count - at);
    send(RegionRead{read.region, read.offset + at, count}, part_of(gather, at));
    at += count;
  }
}

void Client::State::submit_write(const RegionWrite& write, Completion done) {
  const auto most = std::min(server.max_data_xfer_size, max_transfer);
  if (write.data.empty() || !in_range(write.offset, write.data.size(), UINT64_MAX))
    return done(std::unexpected(EINVAL));
  // A server that does not keep up answers, and so holds back whoever writes.
  if (write.posted && phase == Phase::ready && stream->waiting() == 0 && write.data.size() <= most) {
    post(write);
    return done(Done{});
  }
  if (write.data.size() <= most) return send(write, std::move(done));
  const auto gather = std::make_shared<Gather>(std::move(done));
  for (std::size_t at = 0; at < write.data.size();) {
    const auto count = std::min<std::size_t>(most, write.data.size() - at);
    const auto first = write.data.begin() + static_cast<std::ptrdiff_t>(at);
    send(RegionWrite{write.region, write.offset + at, {first, first + static_cast<std::ptrdiff_t>(count)}},
         part_of(gather));
    at += count;
  }
}

int Client::post(const RegionWrite& write) {
  auto& state = *state_;
  if (state.phase != State::Phase::ready) return state.lost_error;
  const auto most = std::min(state.server.max_data_xfer_size, max_transfer);
  const auto size = write.data.size();
  if (size == 0 || size > most || !in_range(write.offset, size, UINT64_MAX)) return EINVAL;
  if (state.stream->waiting() > State::most_waiting) return ENOBUFS;
  state.post(write);
  return 0;
}

void Client::State::post(const RegionWrite& write) {
  const Header header{calls.next_id(), Command::region_write, 0, type_command | flag_no_reply, 0};
  const AccessBody body{write.offset, write.region, static_cast<std::uint32_t>(write.data.size())};
  stream->send(header, bytes_of(body), write.data);
}

/// Sends one message and keeps what its reply needs.
void Client::State::send(Request request, Completion done, std::uint32_t argsz) {
  if (phase != Phase::ready) return done(std::unexpected(lost_error));
  if (calls.full() || stream->waiting() > most_waiting) return done(std::unexpected(ENOBUFS));
  const auto payload = encode_request(request, argsz);
  const auto body = payload.body.bytes();
  const auto id = calls.next_id();
  Call call{command_of(request), {}, Clock::now() + timeout, std::move(done)};
  std::memcpy(call.sent.data(), body.data(), std::min(body.size(), call.sent.size()));
  const Header header{id, call.command, 0, type_command, 0};
  calls.add(std::move(call));
  stream->send(header, body, payload.tail, payload.fds);
  watch();
}

void Client::State::received(Message message) {
  if (phase == Phase::greeting) return greeted(message);
  if ((message.header.flags & type_mask) == type_command) return serve(message);
  reply(std::move(message));
}

void Client::State::reply(Message message) {
  const auto& header = message.header;
  const auto* call = calls.find(header.id);
  if ((header.flags & type_mask) != type_reply)
    return lose_device(ENODEV, "sent a message that is neither command nor reply");
  if (call == nullptr || call->command != header.command)
    return malformed("an answer that nobody waits for", header.command);
  if ((header.flags & flag_error) != 0) {
    if (!message.payload.empty() || !message.fds.empty()) return malformed("a malformed answer", header.command);
    const bool usable = header.error > 0 && header.error < 4096;
    return calls.take(header.id).done(std::unexpected(usable ? static_cast<int>(header.error) : EIO));
  }
  if (header.command == Command::get_region_info && ask_again(message)) return;
  auto answer = decode_answer(header.command, call->sent, message.payload, std::move(message.fds));
  if (!answer) return malformed("a malformed answer", header.command);
  if (auto* info = std::get_if<RegionInfo>(&*answer); info != nullptr && info->fd && !holds_registers(info->fd.get()))
    map_nothing(*info);
  calls.take(header.id).done(std::move(*answer));
}

/// A region's info that did not fit is asked for once more, with room for all of it.
bool Client::State::ask_again(const Message& message) {
  const auto* call = calls.find(message.header.id);
  const auto asked = load<RegionInfoBody>(call->sent);
  const auto room = wanted_argsz(call->sent, message.payload);
  if (!room || *room > most_argsz || asked->argsz != first_argsz || !message.fds.empty()) return false;
  send(GetRegionInfo{asked->index}, calls.take(message.header.id).done, *room);
  return true;
}

/// DMA_READ and DMA_WRITE; a server has nothing else to ask.
void Client::State::serve(const Message& message) {
  const auto& header = message.header;
  const bool read = header.command == Command::dma_read;
  if (!read && header.command != Command::dma_write) return answer(header, EOPNOTSUPP);
  const auto access = decode_dma(message.payload, !read);
  if (!access || !message.fds.empty()) return answer(header, EINVAL);
  const auto kept = owner.lock(); // the handlers may close this client
  const auto echo = encode_dma(access->iova, access->count);
  if (!read) return answer(header, dma_write ? dma_write(access->iova, access->data) : EFAULT, echo.bytes());
  if (!dma_read) return answer(header, EFAULT);
  const auto data = dma_read(access->iova, access->count);
  if (!data) return answer(header, data.error());
  answer(header, data->size() == access->count ? 0 : EIO, echo.bytes(), *data);
}

void Client::State::answer(const Header& command, int error, std::span<const std::byte> head,
                           std::span<const std::byte> tail) {
  if ((command.flags & flag_no_reply) != 0 || phase != Phase::ready) return;
  const Header header{command.id, command.command, 0, type_reply, 0};
  if (error == 0) return stream->send(header, head, tail);
  stream->send({header.id, header.command, 0, type_reply | flag_error, static_cast<std::uint32_t>(error)});
}

} // namespace smartio::vfio::user
