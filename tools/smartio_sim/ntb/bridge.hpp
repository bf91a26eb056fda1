// The bridge between two hosts: the link, and everything that crosses it. Its two ends are devices; each is there while
// its host is. Single-threaded, never waits.
//
// What a host asks of the other's memory by message (see HostMemory) it can only be given when that one is not itself
// waiting for us: QEMU serves no message while one of its processors waits for a register. So before a host is asked to
// read, the reads it waits for are answered with ones, as a root complex does after its completion timeout.
#pragma once

#include "chip.hpp"
#include "faults.hpp"
#include "host_memory.hpp"

#include <array>
#include <deque>
#include <vector>

namespace smartio::sim::ntb {

class NtbFunction;

/// Of one end, since the bridge was made.
struct Counters {
  std::uint64_t reads = 0, writes = 0;             ///< through its windows to the other host
  std::uint64_t read_bytes = 0, written_bytes = 0; ///< of those, what got there
  std::uint64_t unanswered_reads = 0;              ///< answered with ones, crossed ones included
  std::uint64_t crossed_reads = 0;                 ///< answered with ones because the other host wanted to read here
  std::uint64_t dropped_writes = 0;
  std::uint64_t doorbells = 0, lost_doorbells = 0; ///< rung by this end
  std::uint64_t interrupts = 0;                    ///< signalled at this end
  std::uint64_t messages = 0;                      ///< to this host, for its memory
  std::uint64_t refused_writes = 0;                ///< messages that this host answered with an error
  std::uint64_t resets = 0;
};

class Bridge {
public:
  /// `window_bytes`: of BAR 2 and BAR 4 each; a power of two, at least 4 KiB. `train` is called when both ends want the
  /// link; it arranges for trained() to be called some time later. Without it the link is up at once.
  Bridge(const Chip& chip, std::uint64_t window_bytes, std::function<void()> train = nullptr);
  ~Bridge();

  /// A host appears at this end: the function it finds there, as after power-on. One that was there before is detached.
  std::shared_ptr<vfio::Device> attach(Side side, Messages messages = {});
  /// The host has gone: its function answers nothing but ENODEV, the link goes down, what the other waited for is ones.
  void detach(Side side);
  void trained(); ///< the link comes up, if both ends still want it
  bool attached(Side side) const noexcept { return end(side) != nullptr; }

  const Faults& faults() const noexcept { return faults_; }
  void set_faults(const Faults& faults);

  const Chip& chip() const noexcept { return chip_; }
  std::uint64_t window_bytes() const noexcept { return window_bytes_; }
  bool link_up() const noexcept { return link_up_; }
  std::uint64_t link_changes() const noexcept { return link_changes_; }
  Counters counters(Side side) const;
  std::size_t memory_windows(Side side) const; ///< DMA windows of the host

private:
  friend class NtbFunction;
  struct HeldWrite {
    Side from;
    unsigned window;
    std::uint64_t offset;
    std::vector<std::byte> data;
  };
  struct HeldDoorbell {
    Side from;
    unsigned bit;
  };

  // For the functions at the ends.
  NtbFunction* end(Side side) const noexcept { return ends_[static_cast<std::size_t>(side)].get(); }
  NtbFunction* peer_over_link(Side side) const { return link_up_ ? end(other(side)) : nullptr; }
  Counters& count(Side side) { return counters_[static_cast<std::size_t>(side)]; }
  void update_link();
  bool link_wanted() const;
  void set_link(bool up);
  void ring(Side from, std::uint32_t doorbells);
  void read_window(Side from, unsigned window, std::uint64_t offset, std::uint32_t bytes, vfio::Completion done);
  /// Whether the other host is so far behind that no more should be written now.
  [[nodiscard]] bool write_window(Side from, unsigned window, std::uint64_t offset, std::vector<std::byte> data);

  std::optional<std::uint64_t> locate(Side from, unsigned window, std::uint64_t offset, std::uint64_t bytes);
  static void add_up(Counters& sum, NtbFunction& function);
  void deliver_doorbell(Side from, unsigned bit);
  void deliver_write(const HeldWrite& write);
  void push_writes(Side from);
  void hold(HeldWrite write);
  void tear(HeldWrite write);
  bool coherent(Side from, unsigned window) const;
  void release();

  const Chip& chip_;
  std::uint64_t window_bytes_;
  Faults faults_;
  std::function<void()> train_;
  bool training_ = false, link_up_ = false;
  std::uint64_t link_changes_ = 0;
  std::array<std::shared_ptr<NtbFunction>, 2> ends_;
  std::array<Counters, 2> counters_;
  std::deque<HeldWrite> held_writes_;
  std::size_t held_bytes_ = 0;
  std::deque<HeldDoorbell> held_doorbells_;
};

} // namespace smartio::sim::ntb
