// A path whose two ends are in this process, joined by plain memory: what one end maps the other reads and writes,
// without registers and from the start. It fails where a test says so; maps and unmaps as WatchedDevice does.
#pragma once

#include "mapping.hpp"
#include "page.hpp"
#include "path.hpp"
#include "range_allocator.hpp"
#include "result.hpp"
#include "watched_device.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace smartio::testing {

/// The peer as a device of one end: what is mapped for it, the same device of the other end reads and writes.
class MemoryEnd final : public vfio::Device {
public:
  std::weak_ptr<MemoryEnd> other;
  bool up = true;
  bool holds_writes = false; ///< through the aperture, until they are flushed

  void submit(vfio::Request request, vfio::Completion done) override {
    done(std::visit([this](auto& asked) { return this->answer(asked); }, request));
  }
  void on_lost(std::move_only_function<void()>) override {}
  void flush() {
    for (auto& write : std::exchange(held_, {})) carry_out(write);
  }
  void unmap_all() { windows_.clear(); }

private:
  struct Window {
    Mapping memory;
    bool writable;
  };
  template <class Other> static vfio::Reply answer(const Other&) { return std::unexpected(ENOTTY); }
  vfio::Reply answer(const vfio::DmaMap& map) {
    const auto at = std::to_underlying(map.iova);
    if (map.size == 0 || map.size % page_size != 0) return std::unexpected(EINVAL);
    if (!windows_.overlapping(AddressRange::of(at, map.size)).empty()) return std::unexpected(EEXIST);
    const bool writable = map.access != Access::read;
    auto memory = Mapping::map(map.fd.get(), map.offset, map.size, writable);
    if (!memory) return std::unexpected(memory.error().code.value());
    windows_.add(at, map.size, {std::move(*memory), writable});
    return vfio::Done{};
  }
  vfio::Reply answer(const vfio::DmaUnmap& unmap) {
    const auto before = windows_.bytes();
    windows_.erase(windows_.beginning_in(vfio::range_of(unmap)));
    return vfio::Unmapped{before - windows_.bytes()};
  }
  vfio::Reply answer(const vfio::RegionRead& read) {
    flush(); // a read passes no write that came before
    const auto bytes = reached(read.region, read.offset, read.count, false);
    if (bytes.empty()) return std::unexpected(EIO);
    return vfio::Data{{bytes.begin(), bytes.end()}};
  }
  vfio::Reply answer(vfio::RegionWrite& write) {
    if (!up) return std::unexpected(EIO);
    held_.push_back(std::move(write));
    if (!holds_writes) flush();
    return vfio::Done{};
  }
  void carry_out(const vfio::RegionWrite& write) {
    const auto bytes = reached(write.region, write.offset, write.data.size(), true);
    std::copy_n(write.data.begin(), bytes.size(), bytes.begin());
  }
  /// Of the other end's memory; none: nothing is mapped there for that.
  std::span<std::byte> reached(std::uint32_t region, std::uint64_t offset, std::uint64_t size, bool writes) const;

  WindowTable<Window> windows_;
  std::vector<vfio::RegionWrite> held_;
};

class MemoryPath final : public fabric::Path {
public:
  static constexpr std::uint64_t window_bytes = 0x10000;
  static constexpr std::uint64_t room_bytes = window_bytes - page_size; ///< the first page is never given
  static constexpr unsigned most_doorbells = 31;
  static constexpr std::uint64_t base = 1ULL << 33;         ///< where device() has offset 0
  static constexpr std::uint64_t fd_offset = 4 * page_size; ///< of a mappable aperture, in its descriptor

  MemoryPath(boost::asio::io_context& io, NodeId peer, std::uint32_t life) : io_(io), life_(life) {
    state_ = {.up = true, .node = peer, .aperture_bytes = window_bytes, .reason = {}};
    aperture_.size = window_bytes;
    aperture_.flags = vfio::region_flag_read | vfio::region_flag_write;
  }
  static void join(const std::shared_ptr<MemoryPath>& a, const std::shared_ptr<MemoryPath>& b) {
    a->other_ = b;
    b->other_ = a;
    a->end_->other = b->end_;
    b->end_->other = a->end_;
  }

  // What a test chooses; full, it is once somebody has reserved all, and out of doorbells likewise.
  std::shared_ptr<WatchedDevice> watched() const { return watched_; } ///< refuses maps, is late, ...
  void hold_writes() { end_->holds_writes = true; }                   ///< of this end, until it flushes or reads
  bool flush_fails = false;
  void go_down(const std::string& reason) { ///< both ends; what is reached over there is not any more
    for (auto* end : {this, other_.lock().get()}) {
      if (end == nullptr) continue;
      end->state_.up = end->end_->up = false;
      end->state_.reason = reason;
    }
  }
  /// What can be mapped of the aperture is a file of its own, which the other end knows nothing of.
  const Fd& make_mappable() {
    aperture_.fd = make_memfd("aperture", fd_offset + window_bytes).value();
    aperture_.fd_offset = fd_offset;
    aperture_.areas = {{0, window_bytes}};
    aperture_.flags |= vfio::region_flag_mmap;
    return aperture_.fd;
  }

  const State& state() const noexcept override { return state_; }
  Lives lives() const noexcept override {
    const auto other = other_.lock();
    return {life_, other ? other->life_ : 0};
  }
  void close(std::move_only_function<void()> done) override {
    end_->unmap_all();
    go_down("it has left");
    done();
  }
  const std::shared_ptr<vfio::Device>& device() const noexcept override { return device_; }

  std::optional<std::uint64_t> reserve(std::uint64_t bytes) override {
    const auto size = whole_pages(bytes);
    const auto offset = bytes == 0 || bytes > window_bytes ? std::nullopt : free_.allocate(size, page_size);
    if (offset) reserved_[*offset] = size;
    return offset;
  }
  void release(std::uint64_t offset) override {
    if (reserved_.erase(offset) > 0) free_.release(offset);
  }
  Iova inbound(std::uint64_t offset) const noexcept override { return Iova{base + offset}; }
  std::uint64_t used_bytes() const noexcept override {
    std::uint64_t bytes = 0;
    for (const auto& [offset, size] : reserved_) bytes += size;
    return bytes;
  }

  const vfio::RegionInfo& aperture() const noexcept override { return aperture_; }
  void flush(Done done) override {
    if (flush_fails || !state_.up) return done(fail_errno(EIO, "reach the other end"));
    end_->flush();
    done({});
  }

  std::optional<unsigned> claim_doorbell(std::function<void()> rung) override {
    for (unsigned bit = 1; bit <= most_doorbells; ++bit)
      if (doorbells_.try_emplace(bit, rung).second) return bit;
    return std::nullopt;
  }
  void release_doorbell(unsigned bit) override { doorbells_.erase(bit); }
  void ring(unsigned bit, Done done) override {
    if (!state_.up || bit > most_doorbells) return done(fail_errno(EINVAL, "ring a doorbell"));
    boost::asio::post(io_, [other = other_, bit] {
      const auto rings = other.lock();
      const auto found = rings ? rings->doorbells_.find(bit) : decltype(rings->doorbells_.end()){};
      if (rings && found != rings->doorbells_.end()) std::function(found->second)(); // which may release it
    });
    done({});
  }

private:
  boost::asio::io_context& io_;
  std::uint32_t life_;
  State state_;
  std::weak_ptr<MemoryPath> other_;
  std::shared_ptr<MemoryEnd> end_ = std::make_shared<MemoryEnd>();
  std::shared_ptr<WatchedDevice> watched_ = std::make_shared<WatchedDevice>(end_);
  std::shared_ptr<vfio::Device> device_ = watched_;
  RangeAllocator free_{{{page_size, room_bytes}}, {}};
  std::map<std::uint64_t, std::uint64_t> reserved_; ///< by offset
  vfio::RegionInfo aperture_{};
  std::map<unsigned, std::function<void()>> doorbells_;
};

inline std::span<std::byte> MemoryEnd::reached(std::uint32_t region, std::uint64_t offset, std::uint64_t size,
                                               bool writes) const {
  const auto there = other.lock();
  if (!there || !up || region != fabric::Path::aperture_region || size == 0 ||
      !in_range(offset, size, MemoryPath::window_bytes))
    return {};
  const auto at = MemoryPath::base + offset;
  for (auto& [start, window] : there->windows_.overlapping(AddressRange::of(at, size)))
    if (in_range(at - start, size, window.size) && (window.value.writable || !writes))
      return window.value.memory.bytes().subspan(at - start, size);
  return {};
}

/// 8 bytes through the aperture of `path`. False: it fails, or there is no answer yet.
inline bool write_through(fabric::Path& path, std::uint64_t offset, std::uint64_t value) {
  const auto done = std::make_shared<bool>(false); // may outlive the question
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  path.device()->submit(vfio::RegionWrite{fabric::Path::aperture_region, offset, std::move(bytes)},
                        [done](const vfio::Reply& reply) { *done = reply.has_value(); });
  return *done;
}

/// The same; nullopt: nothing is reached there.
inline std::optional<std::uint64_t> read_through(fabric::Path& path, std::uint64_t offset) {
  const auto value = std::make_shared<std::optional<std::uint64_t>>();
  path.device()->submit(vfio::RegionRead{fabric::Path::aperture_region, offset, 8}, [value](const vfio::Reply& reply) {
    if (reply) std::memcpy(&value->emplace(), std::get<vfio::Data>(*reply).bytes.data(), 8);
  });
  return *value;
}

/// The ends at node 4 (a) and at node 8.
struct MemoryPaths {
  explicit MemoryPaths(boost::asio::io_context& io)
      : a(std::make_shared<MemoryPath>(io, NodeId{8}, 41U)), b(std::make_shared<MemoryPath>(io, NodeId{4}, 81U)) {
    MemoryPath::join(a, b);
  }
  std::shared_ptr<MemoryPath> a, b;
};

} // namespace smartio::testing
