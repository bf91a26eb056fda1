#include "host_memory.hpp"

#include <algorithm>
#include <utility>

namespace smartio::sim::ntb {

namespace {

using Reach = GuestMemory::Reach;

constexpr std::uint64_t most_bytes = 64 * 1024; // per message: QEMU 11.1 cuts replies that do not fit its socket buffer
constexpr std::size_t busy_writes = 512, busy_bytes = 1024 * 1024;

bool by_message(Reach reach) { return reach == Reach::no_file || reach == Reach::unmapped; }

} // namespace

struct HostMemory::Reading {
  std::uint64_t address;
  Bytes bytes;
  std::size_t got = 0;
  ReadDone done;
};

bool HostMemory::read_needs_messages(std::uint64_t address, std::uint64_t bytes) const {
  while (bytes > 0) {
    const auto stretch = windows_.reach(address, bytes, Access::read);
    if (stretch.reach == Reach::denied) return false; // fails before any message
    if (by_message(stretch.reach)) return true;
    address += stretch.bytes;
    bytes -= stretch.bytes;
  }
  return false;
}

void HostMemory::read(std::uint64_t address, std::uint64_t bytes, ReadDone done) {
  continue_reading(std::make_shared<Reading>(Reading{address, Bytes(bytes), 0, std::move(done)}));
}

void HostMemory::continue_reading(std::shared_ptr<Reading> reading) {
  while (reading->got < reading->bytes.size()) {
    const auto rest = std::span(reading->bytes).subspan(reading->got);
    const std::uint64_t address = reading->address + reading->got;
    const auto [reach, stretch] = windows_.reach(address, rest.size(), Access::read);
    if (reach == Reach::denied) return reading->done(std::unexpected(EACCES));
    if (reach == Reach::direct) {
      if (!windows_.read(address, rest.first(stretch))) return reading->done(std::unexpected(EFAULT));
      reading->got += stretch;
      continue;
    }
    if (!messages_.read) return reading->done(std::unexpected(EFAULT));
    const auto count = static_cast<std::uint32_t>(std::min(stretch, most_bytes));
    ++sent_;
    messages_.read(static_cast<Iova>(address), count,
                   [weak = weak_from_this(), reading = std::move(reading), count](vfio::Reply reply) mutable {
                     const auto self = weak.lock();
                     if (!self) return;
                     const auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
                     if (data == nullptr || data->bytes.size() != count)
                       return reading->done(std::unexpected(reply ? EIO : reply.error()));
                     std::ranges::copy(data->bytes, reading->bytes.begin() + static_cast<std::ptrdiff_t>(reading->got));
                     reading->got += count;
                     self->continue_reading(std::move(reading));
                   });
    return;
  }
  reading->done(std::move(reading->bytes));
}

int HostMemory::write(std::uint64_t address, std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto [reach, stretch] = windows_.reach(address, data.size(), Access::write);
    if (reach == Reach::denied) return EACCES;
    const auto piece = data.first(by_message(reach) ? std::min(stretch, most_bytes) : stretch);
    const int error = by_message(reach) ? write_message(address, piece) : windows_.write(address, piece) ? 0 : EFAULT;
    if (error != 0) return error;
    data = data.subspan(piece.size());
    address += piece.size();
  }
  return 0;
}

int HostMemory::write_message(std::uint64_t address, std::span<const std::byte> data) {
  if (!messages_.write) return EFAULT;
  const auto number = next_write_++;
  writing_.insert(number);
  writing_bytes_ += data.size();
  ++sent_;
  messages_.write(static_cast<Iova>(address), {data.begin(), data.end()},
                  [weak = weak_from_this(), number, bytes = data.size()](const vfio::Reply& reply) {
                    if (const auto self = weak.lock()) self->written(number, bytes, reply.has_value());
                  });
  return 0;
}

void HostMemory::written(std::uint64_t number, std::size_t bytes, bool good) {
  const bool was_busy = busy();
  writing_.erase(number);
  writing_bytes_ -= bytes;
  if (!good) ++refused_;
  const auto oldest = [this] { return writing_.empty() ? next_write_ : *writing_.begin(); };
  while (!waiters_.empty() && waiters_.front().before <= oldest()) {
    auto done = std::move(waiters_.front().done);
    waiters_.pop_front();
    done();
  }
  if (was_busy && !busy() && idle_) idle_();
}

void HostMemory::after_writes(std::move_only_function<void()> done) {
  if (writing_.empty()) return done();
  waiters_.push_back({next_write_, std::move(done)});
}

bool HostMemory::busy() const noexcept { return writing_.size() >= busy_writes || writing_bytes_ >= busy_bytes; }

} // namespace smartio::sim::ntb
