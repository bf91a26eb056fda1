// A device that this program drives: registers, memory windows, interrupts, configuration space.
//
// Every call here is control path and may block, bounded by the timeout the device was opened with. Loads, stores, DMA
// and interrupts never enter the library where memory is mapped. Objects are like standard containers: different
// objects may be used by different threads, one object by one thread at a time. A failed call leaves everything as it
// was (reset excepted).
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>
#include <smartio/memory.hpp>
#include <smartio/types.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace smartio::detail {
struct DeviceCore;
struct Bar;
struct Window;
struct Vector;
} // namespace smartio::detail

namespace smartio {
inline namespace v0 {

// Objects made by their default constructor, and those that were moved from, are empty: they can be tested, assigned
// and destroyed, and nothing else. A process that fork(2) made has none of this library's threads: it may exec or
// _exit(2), and does not harm its parent by that; objects that it inherited must not be used or destroyed there.

/// A device register block (PCI base address register). Copies share it.
/// After the device was taken back, loads from a mapped area give all ones (until a store of this program changes its
/// private copy) and stores reach no device; `read` gives all ones and `write` Errc::revoked.
class BarMapping {
public:
  /// A range of the register block that is mapped in this process: loads and stores there never enter the library.
  struct Area {
    std::size_t offset; ///< from the start of the register block, in bytes
    std::span<volatile std::byte> bytes;
  };
  BarMapping() = default;
  explicit operator bool() const noexcept { return impl_ != nullptr; } ///< not empty

  std::span<const Area> areas() const noexcept; ///< what is mapped; may be empty
  std::size_t size() const noexcept;            ///< of the register block, in bytes

  /// The mapped address of `bytes` at `offset`, or nullptr where not all of it is mapped.
  volatile std::byte* mapped(std::size_t offset, std::size_t bytes) const noexcept;

  /// One access of `width` 1, 2, 4 or 8 bytes at any naturally aligned offset: a load or store where mapped, otherwise
  /// a message to the device's server. Errc::bad_request for another width or a range outside the block.
  Result<std::uint64_t> read(std::size_t offset, unsigned width) const;
  Result<void> write(std::size_t offset, unsigned width, std::uint64_t value) const;
  /// The same as `write` without waiting for the server's answer, as stores on PCI Express are posted; in order with
  /// reads and writes of this device. Whether it was refused is not heard.
  Result<void> post(std::size_t offset, unsigned width, std::uint64_t value) const;

private:
  friend class Device;
  explicit BarMapping(std::shared_ptr<detail::Bar> impl) noexcept : impl_(std::move(impl)) {}
  std::shared_ptr<detail::Bar> impl_;
};

/// Memory, or registers of another device, that the device can reach. When the destructor returns it no longer can, and
/// the memory may be reused; if that cannot be had (the device's server does not answer), the memory is leaked on
/// purpose and never reused.
class DmaWindow {
public:
  DmaWindow() noexcept;
  explicit operator bool() const noexcept { return impl_ != nullptr; } ///< not empty
  DmaWindow(DmaWindow&&) noexcept;
  DmaWindow& operator=(DmaWindow&&) noexcept;
  ~DmaWindow();
  Iova iova() const noexcept; ///< write this into the device; contiguous for size() bytes
  std::size_t size() const noexcept;

private:
  friend class Device;
  explicit DmaWindow(std::unique_ptr<detail::Window> impl) noexcept;
  std::unique_ptr<detail::Window> impl_;
};

/// One interrupt vector, enabled while this object lives.
class Interrupt {
public:
  Interrupt() noexcept;
  explicit operator bool() const noexcept { return impl_ != nullptr; } ///< not empty
  Interrupt(Interrupt&&) noexcept;
  Interrupt& operator=(Interrupt&&) noexcept;
  ~Interrupt();
  int fd() const noexcept; ///< borrowed eventfd, readable after the vector fired; wait with any loop

  /// For devices with nothing but INTx, which fires once until this is called: after the device was made to stop
  /// asserting its interrupt. Does nothing for MSI and MSI-X.
  Result<void> rearm() const;

private:
  friend class Device;
  explicit Interrupt(std::unique_ptr<detail::Vector> impl) noexcept;
  std::unique_ptr<detail::Vector> impl_;
};

/// A device this program drives. It is given back when this and everything made from it are gone, in any order; copies
/// share it. Bus mastering is off at first, and after reset(): without bus_master(true) no DMA and no interrupt
/// happens.
class Device {
public:
  Device() = default;
  explicit operator bool() const noexcept { return core_ != nullptr; } ///< not empty

  const DeviceInfo& info() const noexcept;           ///< what it is, as it was when it was borrowed
  unsigned vectors() const noexcept;                 ///< MSI-X vectors; without MSI-X those of MSI, or 1 for INTx
  std::size_t bar_size(unsigned bar) const noexcept; ///< in bytes; 0 where there is none, or bar > 5

  /// Maps what of the register block the device's server lets this process map. Errc::bad_request if there is no such
  /// BAR.
  Result<BarMapping> map_bar(unsigned bar) const;

  /// Lets the device reach `memory` at an address this library chooses. Errc::no_window when no address range is free.
  /// Each GiB has the device's timeout for itself, also when the window ends.
  Result<DmaWindow> map_dma(const Memory& memory, Access by_device) const;
  /// The same at an address the caller chooses, a multiple of 4 KiB. Errc::bad_request if it overlaps another window,
  /// or addresses that the IOMMU reserves, or lies outside of this program's share of the addresses (Node::borrow).
  Result<DmaWindow> map_dma_at(Iova iova, const Memory& memory, Access by_device) const;

  /// Peer to peer: lets this device reach the registers of `target`, another device of the same lender, without this
  /// program or any host's memory in between. iova() stands for the start of the register block, and of the block only
  /// what `target` lets this process map is reachable: BarMapping::areas of target.map_bar(bar), never a page with the
  /// MSI-X table. `target` is not given back before the window is gone; when its lender takes it back, this device
  /// reaches nothing there any more. After a reset of `target` the window is there again, unless the lender cannot make
  /// it again. Whether the platform carries accesses from device to device is for the caller to find out: with some
  /// chipsets loads give ones. Verified on kernel VFIO in QEMU, not on hardware.
  /// Errc::not_permitted where nothing of the BAR is mapped (this process is not trusted, or the BAR has no such page);
  /// Errc::bad_request for devices of different lenders, and for a BAR the target lacks; EOPNOTSUPP where the lender's
  /// kernel does not tell whose registers they are (VFIO groups without kcmp(2)).
  Result<DmaWindow> map_bar_of(const Device& target, unsigned bar, Access by_device) const;

  /// Enables interrupt vector `vector` (0 to vectors()-1) and gives its eventfd. Errc::busy while another Interrupt has
  /// it.
  Result<Interrupt> interrupt(unsigned vector) const;

  /// PCI configuration space; `width` 1, 2 or 4, naturally aligned. Writes are filtered by the lender.
  Result<std::uint32_t> read_config(std::uint16_t offset, unsigned width) const;
  Result<void> write_config(std::uint16_t offset, unsigned width, std::uint32_t value) const;

  /// Lets the device start accesses of its own, DMA and interrupts by message, or ends that (Bus Master Enable: PCI
  /// Express Base 5.0, 7.5.1.1.3).
  Result<void> bus_master(bool on) const;

  /// Function level reset. Registers are at their reset values afterwards, bus mastering is off; windows stay.
  Result<void> reset() const;

  /// Gives the device back now, with all that was made from it: registers read as ones, stores reach nothing, windows
  /// are gone and their memory may be reused. When this returns, others can borrow it; another program of this host
  /// that uses the same loan keeps it. Blocks until the windows are gone (map_dma) and the loan has ended, for as long
  /// as a call of its node may. An error says that this was not heard: memory of windows is kept for ever then. The
  /// device is not usable in any case, except after Errc::wrong_state, from within a callback of its node. Calling it
  /// again gives the same.
  Result<void> give_back() const;

  /// Borrowed; readable once the device is at its end, whoever ended it.
  int revoked_fd() const noexcept;

  /// How it came to its end; nullopt while it has not (revoked_fd() is not readable). Asks the node: blocks until the
  /// loan has ended there, for as long as a call of the node may: Errc::timed_out, and it can be asked again. A node
  /// remembers its latest 256 loans: Errc::wrong_state of one before, and from within a callback of the node.
  Result<std::optional<Ended>> ended() const;

private:
  friend struct detail::DeviceCore;
  friend class Node;
  friend Result<Device> open_device(const std::string& address, std::chrono::milliseconds timeout);
  explicit Device(std::shared_ptr<detail::DeviceCore> core) noexcept : core_(std::move(core)) {}
  std::shared_ptr<detail::DeviceCore> core_;
};

/// Opens "vfio-user:PATH" straight, without lending. `timeout` bounds every blocking call on the device.
/// Errc::bad_request for another kind of address, Errc::peer_down if nothing answers on the socket.
Result<Device> open_device(const std::string& address,
                           std::chrono::milliseconds timeout = std::chrono::milliseconds{4000});

} // namespace v0
} // namespace smartio

#endif
