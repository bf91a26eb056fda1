// The path through a bridge: the node at its other end, who it is, whether it lives, what it reaches here, and what is
// reached there.
//
// The two find each other by scratchpads: each writes its node id, a number for this life of it (epoch), and where its
// control page is, into the other's. From then on each counts up in the other's control page: that count, and not the
// link's bit, says that the other is alive. The page is ordinary memory at the start of the window, so a read of it
// through the bridge also pushes every write before it (PCI Express Base 5.0, 2.4.1: a completion passes no posted
// request).
#pragma once

#include "mapping.hpp"
#include "ntb/adapter.hpp"
#include "path.hpp"
#include "range_allocator.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>

namespace smartio::fabric::ntb {

/// Single-threaded, on one event loop. A window is used from its start: the control page first.
class Peer final : public Path, public std::enable_shared_from_this<Peer> {
public:
  struct Options {
    NodeId node{};                           ///< this one
    std::chrono::milliseconds silence{3000}; ///< without a sign of life for so long a peer counts as dead
    std::uint64_t most_bytes = 1ULL << 36;   ///< of the window, however large the BAR is
  };
  using Changed = std::function<void()>; ///< state() or used_bytes(); from the event loop, never from within a call
  using Opened = std::move_only_function<void(Result<std::shared_ptr<Peer>>)>;

  /// Takes the bridge into use: window open, with nothing but the control page in it, link wanted. Errors as Adapter's,
  /// and of the device's.
  static void open(boost::asio::io_context& io, std::shared_ptr<vfio::Device> device, Options options, Changed changed,
                   Opened opened);

  const State& state() const noexcept override { return state_; }
  Lives lives() const noexcept override { return {epoch_, peer_.epoch}; }
  /// Closes the window and the link, too. The device is the caller's to close, after `done`.
  void close(std::move_only_function<void()> done) override;
  /// The bridge's function: its IOMMU domain is what the peer reaches, its BAR 2 the aperture.
  const std::shared_ptr<vfio::Device>& device() const noexcept override { return device_; }

  std::optional<std::uint64_t> reserve(std::uint64_t bytes) override;
  void release(std::uint64_t offset) override;
  Iova inbound(std::uint64_t offset) const noexcept override { return Iova{base_ + offset}; }
  std::uint64_t window_bytes() const noexcept { return bytes_; }
  std::uint64_t used_bytes() const noexcept override { return used_; }

  const vfio::RegionInfo& aperture() const noexcept override { return aperture_; }
  void flush(Done done) override; ///< reads the peer's control page

  // Doorbell 0 is the control page's; those from 1 on are for whoever claims them.
  std::optional<unsigned> claim_doorbell(std::function<void()> rung) override;
  void release_doorbell(unsigned bit) override;
  void ring(unsigned bit, Done done) override { adapter_->ring(bit, std::move(done)); }

private:
  /// What a node says of itself in the peer's scratchpads, from the first on.
  struct Hello {
    std::uint32_t magic = 0, version_and_node = 0, epoch = 0, pages = 0, check = 0;
    bool operator==(const Hello&) const = default;
  };
  /// What a node writes into the peer's control page.
  struct Sign {
    std::uint32_t from, to, count, reserved;
  };
  Peer(boost::asio::io_context& io, std::shared_ptr<vfio::Device> device, Options options, Changed changed);
  boost::asio::awaitable<Result<void>> start();
  Result<std::vector<Fd>> make_events();
  boost::asio::awaitable<Result<void>> open_aperture();
  boost::asio::awaitable<Result<void>> open_window();
  void watch(unsigned vector);
  void doorbell(unsigned bit);
  void enable_doorbells();
  void tell();

  // peer_life.cpp
  void tick();
  void look();
  // `self`: it may begin later, when nobody else has this any more.
  boost::asio::awaitable<void> look_again(std::shared_ptr<Peer> self);
  boost::asio::awaitable<Result<void>> look_once(bool ticked);
  boost::asio::awaitable<Result<void>> beat();
  boost::asio::awaitable<Result<Hello>> read_hello();
  boost::asio::awaitable<Result<void>> greet(Hello hello);
  boost::asio::awaitable<Result<void>> sign();
  boost::asio::awaitable<void> leave(std::shared_ptr<Peer> self, std::move_only_function<void()> done);
  Hello own_hello() const;
  Sign read_sign() const;
  bool heard();
  void set_up();
  void set_down(const std::string& reason);

  boost::asio::io_context& io_;
  std::shared_ptr<vfio::Device> device_;
  std::shared_ptr<Adapter> adapter_;
  Options options_;
  Changed changed_;
  State state_;
  std::uint32_t epoch_;
  std::uint64_t base_ = 0, bytes_ = 0, used_ = 0;
  RangeAllocator offsets_{{}, {}};
  std::map<std::uint64_t, std::uint64_t> reserved_; ///< by offset
  vfio::RegionInfo aperture_{};
  Fd control_fd_;
  Mapping control_;
  std::vector<boost::asio::posix::stream_descriptor> events_;
  std::map<unsigned, std::function<void()>> doorbells_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point heard_{};
  Hello peer_; ///< as it was last read; all 0: none
  std::uint32_t count_ = 0, last_count_ = 0;
  bool link_up_ = false, looking_ = false, wanted_ = false, ticked_ = false, telling_ = false, closing_ = false;
};

} // namespace smartio::fabric::ntb
