// One end of a non-transparent bridge, driven through its vfio device: the link, what the peer reaches here and where,
// doorbells and scratchpads. One peer. Knows nothing of loans, nor of what is in the memory.
//
// A window's translation holds an IOVA of this device's own IOMMU domain, so it is programmed once, and what the peer
// reaches is decided by DMA windows (vfio::DmaMap) there.
#pragma once

#include "ntb/driver.hpp"

#include <array>
#include <vector>

namespace smartio::fabric::ntb {

/// Single-threaded, never waits: what asks the device completes later, or before the call returns. Calls that change
/// what recover() brings back take effect one after the other, in order; the others overtake them. A failed call may
/// have done a part of its steps; recover() makes it whole. After ENODEV the device is gone for good.
class Adapter : public std::enable_shared_from_this<Adapter> {
public:
  using Done = Steps::Done;
  template <class T> using Told = std::move_only_function<void(Result<T>)>;

  /// Looks whether the device is a bridge that can be driven: otherwise Errc::bad_request. Changes nothing.
  static void open(std::shared_ptr<vfio::Device> device, Told<std::shared_ptr<Adapter>> opened);

  const Shape& shape() const noexcept { return driver_->shape(); }

  /// Bus master on, all doorbells disabled and cleared, and an eventfd for each of vector_count vectors: doorbell i
  /// signals the i-th, the link's changes that of shape(). The eventfds are taken over.
  void start(std::vector<Fd> events, Done done);
  /// Programs everything again: after the device has lost its registers (reset, or link down with some bridges). The
  /// windows are closed meanwhile, and doorbells are not cleared: look at them, and at the link, afterwards.
  void recover(Done done);

  void enable_link(Done done); ///< asks for the link; it comes up when the peer does too, some time later
  void disable_link(Done done);
  /// The link as it is, its event acknowledged: a change after this signals again.
  void read_link(Told<Link> told);

  /// Lets the peer's accesses through window `index` come out at `base`. Errc::bad_request: not aligned, or not a
  /// number of 4 KiB pages within the window. Errc::wrong_state: the bridge does not take it.
  void open_window(unsigned index, Iova base, std::uint64_t bytes, Done done);
  void close_window(unsigned index, Done done);

  void ring(unsigned bit, Done done);
  void read_doorbells(Told<std::uint64_t> told);        ///< those that the peer has rung
  void clear_doorbells(std::uint64_t bits, Done done);  ///< before looking at what they announce
  void enable_doorbells(std::uint64_t bits, Done done); ///< these signal; all others do not

  void write_peer_scratchpad(unsigned index, std::uint32_t value, Done done);
  void read_scratchpad(unsigned index, Told<std::uint32_t> told); ///< as the peer left it

private:
  struct Window {
    std::uint64_t base = 0, bytes = 0; ///< nothing: closed
  };
  explicit Adapter(std::shared_ptr<vfio::Device> device) : device_(std::move(device)) {}
  void take_turn(std::shared_ptr<Steps> steps, Done done);
  void next_turn();
  template <class T> void tell(std::shared_ptr<Steps> steps, std::shared_ptr<T> found, Told<T> told);

  struct Turn {
    std::shared_ptr<Steps> steps;
    Done done;
  };

  std::shared_ptr<vfio::Device> device_;
  std::deque<Turn> waiting_; ///< the first one is under way
  std::unique_ptr<Driver> driver_;
  // What was asked for last, for recover().
  std::array<Window, window_count> windows_;
  bool started_ = false, link_wanted_ = false;
  std::uint64_t enabled_ = 0; ///< doorbells
};

} // namespace smartio::fabric::ntb
