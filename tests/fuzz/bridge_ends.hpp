// A simulated bridge with this implementation's node at one end, and at the other a host whose registers are written
// as a fuzzer's input tells.
#pragma once

#include "fd.hpp"
#include "mapping.hpp"
#include "ntb/bridge.hpp"
#include "ntb/peer.hpp"

#include <algorithm>
#include <bit>
#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <cstring>
#include <span>

namespace smartio::test {

using fabric::ntb::Peer;
using sim::ntb::Side;

inline void require(bool holds) {
  if (!holds) std::abort();
}

/// The bridge's function as our node has it: the next answers can be made to fail, to hold other bytes, or to wait.
struct OddDevice final : vfio::Device {
  explicit OddDevice(std::shared_ptr<vfio::Device> real) : device(std::move(real)) {}
  void submit(vfio::Request request, vfio::Completion done) override {
    if (fail > 0 && --fail == 0) {
      stuck = stuck || std::holds_alternative<vfio::DmaUnmap>(request);
      return done(std::unexpected(EIO));
    }
    device->submit(std::move(request), [this, waits = late, done = std::move(done)](vfio::Reply reply) mutable {
      auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr;
      if (data != nullptr && odd > 0 && --odd == 0)
        for (auto& byte : data->bytes) byte = ones ? std::byte{0xff} : byte ^ std::byte{0x55};
      if (!waits) return done(std::move(reply));
      waiting.push_back([done = std::move(done), reply = std::move(reply)]() mutable { done(std::move(reply)); });
    });
  }
  void answer(std::size_t place = 0) {
    auto waited = std::move(waiting[place]);
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(place));
    waited();
  }
  void on_lost(std::move_only_function<void()>) override {}

  std::shared_ptr<vfio::Device> device;
  std::uint64_t fail = 0, odd = 0; ///< which answer from now on; 0: none
  bool ones = false, late = false;
  bool stuck = false;                                   ///< something was not unmapped: its room is not used again
  std::vector<std::move_only_function<void()>> waiting; ///< with late
};

class BridgeEnds {
public:
  static constexpr std::uint64_t window_bytes = 0x10000;
  static constexpr std::uint32_t their_epoch = 77;

  BridgeEnds(boost::asio::io_context& io, std::size_t chip, std::chrono::milliseconds silence)
      : io_(io), bridge_(sim::ntb::chips[chip % sim::ntb::chip_count], window_bytes), far_(bridge_.attach(Side::b)),
        ours(std::make_shared<OddDevice>(bridge_.attach(Side::a))) {
    write(vfio::config_region, 0x18, 8, 0x80000000);
    write(vfio::config_region, 0x20, 8, 0x90000000);
    write(vfio::config_region, 0x04, 2, 0x6);
    ours->submit(vfio::RegionWrite{vfio::config_region, 0x18, number(0x80000000, 8)}, [](const vfio::Reply&) {});
    ours->submit(vfio::RegionWrite{vfio::config_region, 0x20, number(0x90000000, 8)}, [](const vfio::Reply&) {});
    Peer::open(
        io, ours, {.node = NodeId{8}, .silence = silence},
        [this] {
          require(!in_call_);
          changed();
        },
        [this](auto opened) {
          if (opened) peer = std::move(*opened);
        });
    run();
  }
  ~BridgeEnds() {
    ours->late = false;
    settle();
    if (peer) {
      bool closed = false;
      peer->close([&closed] { closed = true; });
      run();
      require(closed);
    }
    peer.reset();
    run();
    bridge_.detach(Side::a);
    bridge_.detach(Side::b);
  }

  void run() {
    io_.restart();
    io_.poll();
  }

  void settle() {
    for (run(); !ours->waiting.empty(); run()) ours->answer();
  }
  void wait(std::chrono::milliseconds time) {
    io_.restart();
    io_.run_for(time);
  }

  // The other host.
  void write(std::uint32_t region, std::uint64_t offset, unsigned width, std::uint64_t value) {
    far_->submit(vfio::RegionWrite{region, offset, number(value, width)}, [](const vfio::Reply&) {});
  }
  std::uint64_t read(std::uint32_t region, std::uint64_t offset, unsigned width) {
    std::uint64_t value = 0;
    far_->submit(vfio::RegionRead{region, offset, width}, [&value](vfio::Reply reply) {
      if (auto* data = reply ? std::get_if<vfio::Data>(&*reply) : nullptr)
        std::memcpy(&value, data->bytes.data(), std::min(sizeof value, data->bytes.size()));
    });
    return value;
  }
  void want_link(bool on) {
    if (bridge_.chip().generation == 3) {
      write(0, 0x4504, 2, on ? 0x6 : 0);
      write(0, 0x00, 4, on ? 0x154 : 0x3);
    } else {
      write(0, 0x00, 4, on ? 0x154 : 0);
      write(0, 0xb050, 2, on ? 0 : 0x10);
      write(0, 0xb0d4, 4, on ? 0x8 : 0);
    }
    run();
  }
  void scratchpad(unsigned index, std::uint32_t value) {
    write(0, bridge_.chip().peer_scratchpads + 4 * index, 4, value);
  }
  void ring(std::uint32_t bits) {
    write(0, 0x100, 4, bits);
    run();
  }
  /// As this implementation says it; peer_life.cpp.
  void hello(std::uint32_t node, std::uint32_t epoch, std::uint32_t pages, std::uint32_t spoilt = 0) {
    const std::uint32_t magic = 0x4f494d53, who = 1U << 16 | node;
    const auto check = ~(magic ^ who ^ std::rotl(epoch, 11) ^ std::rotl(pages, 22));
    const std::uint32_t words[] = {magic, who, epoch, pages, check ^ spoilt};
    for (unsigned i = 0; i < 5; ++i) scratchpad(i, words[i]);
    ring(1);
  }
  /// Counts on in our node's control page; with `wrong` for somebody else.
  void sign(std::uint32_t epoch, std::uint32_t wrong = 0) {
    const auto to = static_cast<std::uint32_t>(read(0, 0x80 + 8, 4)) ^ wrong;
    const std::uint32_t words[] = {epoch, to, ++count_};
    for (unsigned i = 0; i < 3; ++i) write(Peer::aperture_region, 4 * i, 4, words[i]);
    ring(1);
  }
  bool find_each_other(std::uint32_t pages = window_bytes / 4096) {
    want_link(true);
    hello(4, their_epoch, pages);
    sign(their_epoch);
    return peer && peer->state().up;
  }
  void set_faults(const sim::ntb::Faults& faults) {
    bridge_.set_faults(faults);
    run();
  }

  /// Calls our node; its news come later, never from within.
  void call(const std::function<void(Peer&)>& what) {
    if (!peer) return;
    in_call_ = true;
    what(*peer);
    in_call_ = false;
  }

private:
  static std::vector<std::byte> number(std::uint64_t value, unsigned width) {
    std::vector<std::byte> bytes(width);
    std::ranges::copy(std::as_bytes(std::span(&value, 1)).first(std::min<std::size_t>(width, sizeof value)),
                      bytes.begin());
    return bytes;
  }

  boost::asio::io_context& io_;
  sim::ntb::Bridge bridge_;
  std::shared_ptr<vfio::Device> far_;
  bool in_call_ = false;
  std::uint32_t count_ = 0;

public:
  std::shared_ptr<OddDevice> ours;
  std::shared_ptr<Peer> peer; ///< none: it could not be opened
  std::function<void()> changed = [] {};
};

} // namespace smartio::test
