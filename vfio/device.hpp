// What can be asked of a device, as values. Everything anyone does to a device is one of these requests, whoever
// carries it out: a vfio-user server at the other end of a socket, kernel VFIO, or a device model. Meanings follow the
// kernel's VFIO (linux/vfio.h) and the vfio-user specification, which share their structures.
#pragma once

#include "fd.hpp"
#include "range_allocator.hpp"
#include "window_table.hpp"

#include <smartio/types.hpp>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace smartio::vfio {

// Region and interrupt indexes: VFIO_PCI_*_REGION_INDEX and VFIO_PCI_*_IRQ_INDEX of linux/vfio.h.
inline constexpr std::uint32_t config_region = 7;
inline constexpr std::uint32_t rom_region = 6;
inline constexpr std::uint32_t region_count = 9;
inline constexpr std::uint32_t intx = 0, msi = 1, msix = 2, err = 3, req = 4;
inline constexpr std::uint32_t irq_count = 5;

// Flags of GetInfo, GetRegionInfo, GetIrqInfo and SetIrqs: VFIO_DEVICE_FLAGS_*, VFIO_REGION_INFO_FLAG_*,
// VFIO_IRQ_INFO_* and VFIO_IRQ_SET_* of linux/vfio.h.
inline constexpr std::uint32_t device_flag_reset = 1, device_flag_pci = 2;
inline constexpr std::uint32_t region_flag_read = 1, region_flag_write = 2, region_flag_mmap = 4, region_flag_caps = 8;
inline constexpr std::uint32_t irq_flag_eventfd = 1, irq_flag_maskable = 2, irq_flag_automasked = 4,
                               irq_flag_noresize = 8;
inline constexpr std::uint32_t irq_data_none = 1, irq_data_bool = 2, irq_data_eventfd = 4;
inline constexpr std::uint32_t irq_action_mask = 8, irq_action_unmask = 16, irq_action_trigger = 32;

// Bits 24-31 of GetInfo's flags are smartio's own, not in linux/vfio.h: for a client that shares the device with others
// the slice of the IOVAs (iova_slices) that its windows must lie in, plus 1; otherwise 0. A client that does not know
// them ignores them, and its windows elsewhere are refused with ERANGE.
inline constexpr unsigned device_flags_slice_shift = 24;
inline constexpr std::uint32_t device_flags_slice_mask = 0xffU << device_flags_slice_shift;

/// The slice in GetInfo's flags; none where they name one that there is not.
constexpr std::optional<unsigned> slice_of(std::uint32_t flags) {
  const auto number = flags >> device_flags_slice_shift;
  return number == 0 || number > iova_slices ? std::nullopt : std::optional(number - 1);
}

/// `flags` with `slice` (below iova_slices, or none) in place of what they had.
constexpr std::uint32_t with_slice(std::uint32_t flags, std::optional<unsigned> slice) {
  return (flags & ~device_flags_slice_mask) | (slice ? (*slice + 1) << device_flags_slice_shift : 0);
}

struct GetInfo {};
struct GetRegionInfo {
  std::uint32_t index;
};
struct GetIrqInfo {
  std::uint32_t index;
};
/// One action and one kind of data. `eventfds` is empty (de-assign) or holds `count`; `bools` holds `count` with
/// irq_data_bool.
struct SetIrqs {
  std::uint32_t flags, index, start, count;
  std::vector<std::uint8_t> bools;
  std::vector<Fd> eventfds;
};
struct RegionRead {
  std::uint32_t region;
  std::uint64_t offset; ///< within the region
  std::uint32_t count;  ///< bytes
};
struct RegionWrite {
  std::uint32_t region;
  std::uint64_t offset;
  std::vector<std::byte> data;
  bool posted = false; ///< nobody waits for its end, nor hears whether it was done
};
/// Lets the device reach `size` bytes at `iova`. Without a descriptor the window is known, but cannot be reached.
struct DmaMap {
  Iova iova;
  std::uint64_t size;
  Access access;
  Fd fd;                    ///< may be none
  std::uint64_t offset = 0; ///< of the memory within fd
};
/// Every window within [iova, iova+size), or all of them. When it completes the device can no longer reach them.
struct DmaUnmap {
  Iova iova;
  std::uint64_t size;
  bool all = false;
};
/// The addresses that are to be unmapped. None of 0 bytes; up to the last there is where it would wrap.
constexpr AddressRange range_of(const DmaUnmap& unmap) {
  const auto first = static_cast<std::uint64_t>(unmap.iova);
  if (unmap.all) return AddressRange::all();
  if (unmap.size == 0) return {1, 0};
  return unmap.size - 1 > UINT64_MAX - first ? AddressRange{first, UINT64_MAX} : AddressRange::of(first, unmap.size);
}
struct Reset {};

using Request =
    std::variant<GetInfo, GetRegionInfo, GetIrqInfo, SetIrqs, RegionRead, RegionWrite, DmaMap, DmaUnmap, Reset>;

struct Done {};
struct Info {
  std::uint32_t flags, regions, irqs;
  std::vector<IovaRange> iovas{}; ///< where windows can be, ascending, apart; empty: anywhere, or it is not known
};
struct RegionArea {
  std::uint64_t offset, size; ///< within the region
  bool operator==(const RegionArea&) const = default;
};
/// `areas` is empty where nothing can be mapped; with irregular support the whole region is one area.
/// Area a is at fd offset `fd_offset + area.offset`.
struct RegionInfo {
  std::uint32_t flags; ///< region_flag_*; the caps flag is the codec's business and never set here
  std::uint64_t size;
  std::uint64_t fd_offset = 0;
  std::vector<RegionArea> areas;
  Fd fd; ///< none unless areas is not empty
};
struct IrqInfo {
  std::uint32_t flags, count;
};
struct Data {
  std::vector<std::byte> bytes;
};
struct Unmapped {
  std::uint64_t size; ///< bytes really unmapped
};

using Answer = std::variant<Done, Info, RegionInfo, IrqInfo, Data, Unmapped>;

/// The answer that belongs to the request (Done for SetIrqs, RegionWrite, DmaMap and Reset), or an errno.
using Reply = std::expected<Answer, int>;
using Completion = std::move_only_function<void(Reply)>;

/// A device that carries out requests. Single-threaded: all calls and completions on the thread of one event loop.
class Device {
public:
  virtual ~Device() = default;

  /// Carries out `request` and calls `done` exactly once, possibly before submit returns. Requests take effect in the
  /// order of submission. After the device is lost every request completes with ENODEV or the like.
  virtual void submit(Request request, Completion done) = 0;

  /// A client's request was refused before it came here, for a reason that its owner should be told.
  virtual void client_refused(const std::string& why) { (void)why; }

  /// Called at most once, when the device can no longer be used (its server went away); never from within submit.
  virtual void on_lost(std::move_only_function<void()> lost) = 0;
};

} // namespace smartio::vfio
