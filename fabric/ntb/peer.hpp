// The node at the other end of a bridge: who it is, whether it lives, what it reaches here, and what is reached there.
//
// The two find each other by scratchpads: each writes its node id, a number for this life of it (epoch), and where its
// control page is, into the other's. From then on each counts up in the other's control page: that count, and not the
// link's bit, says that the other is alive. The page is ordinary memory at the start of the window, so a read of it
// through the bridge also pushes every write before it (PCI Express Base 5.0, 2.4.1: a completion passes no posted
// request).
#pragma once

#include "mapping.hpp"
#include "ntb/adapter.hpp"
#include "range_allocator.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>

namespace smartio::fabric::ntb {

/// Single-threaded, on one event loop. A window is used from its start: the control page first.
class Peer : public std::enable_shared_from_this<Peer> {
public:
  struct Options {
    NodeId node{};                           ///< this one
    std::chrono::milliseconds silence{3000}; ///< without a sign of life for so long a peer counts as dead
    std::uint64_t most_bytes = 1ULL << 36;   ///< of the window, however large the BAR is
  };
  struct State {
    bool up = false;
    NodeId node{};                    ///< 0 before it was ever heard
    std::uint64_t aperture_bytes = 0; ///< that we reach of it
    std::string reason;               ///< why it is down
  };
  using Changed = std::function<void()>; ///< state() or used_bytes(); from the event loop, never from within a call
  using Opened = std::move_only_function<void(Result<std::shared_ptr<Peer>>)>;

  /// Takes the bridge into use: window open, with nothing but the control page in it, link wanted. Errors as Adapter's,
  /// and of the device's.
  static void open(boost::asio::io_context& io, std::shared_ptr<vfio::Device> device, Options options, Changed changed,
                   Opened opened);
  /// Tells the peer, closes the window and the link. The device is the caller's to close, after `done`.
  void close(std::move_only_function<void()> done);

  /// What each end drew at random when it began: together they name this bridge, and this life of it, among all that
  /// two nodes may have. The peer's is 0 before it was ever heard.
  struct Lives {
    std::uint32_t own, peer;
    bool operator==(const Lives&) const = default;
  };

  const State& state() const noexcept { return state_; }
  Lives lives() const noexcept { return {epoch_, peer_.epoch}; }
  const std::shared_ptr<vfio::Device>& device() const noexcept { return device_; }

  // What the peer reaches here.
  /// Room for `bytes` in the window: its offset, at a multiple of 4 KiB, or of 2 MiB for 2 MiB and more. Nothing is
  /// reached there until it is mapped at inbound(offset) of device(). nullopt: no room.
  std::optional<std::uint64_t> reserve(std::uint64_t bytes);
  void release(std::uint64_t offset); ///< after everything there was unmapped
  Iova inbound(std::uint64_t offset) const noexcept { return Iova{base_ + offset}; }
  std::uint64_t window_bytes() const noexcept { return bytes_; }
  std::uint64_t used_bytes() const noexcept { return used_; }

  // What is reached there.
  static constexpr std::uint32_t aperture_region = 2;
  /// The BAR whose offsets are offsets of the peer's window; without a descriptor where it cannot be mapped.
  const vfio::RegionInfo& aperture() const noexcept { return aperture_; }
  /// Reads the peer's control page: what the device and this host wrote there before has arrived once this completes.
  void flush(Adapter::Done done);

  // Doorbells. Those from 1 on are for whoever claims them.
  std::optional<unsigned> claim_doorbell(std::function<void()> rung);
  void release_doorbell(unsigned bit);
  void ring(unsigned bit, Adapter::Done done) { adapter_->ring(bit, std::move(done)); }

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
