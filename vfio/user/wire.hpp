// What a vfio-user message looks like in bytes: header, payload structures, numbers. Everything is in host byte order
// and read and written by copying (vfio-user specification 0.x; linux/vfio.h for the structures it shares).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace smartio::vfio::user {

/// Commands of the specification, section "Commands". The number decides the direction: 11 and 12 go from server to
/// client, all others from client to server.
enum class Command : std::uint16_t {
  version = 1,
  dma_map = 2,
  dma_unmap = 3,
  get_info = 4,
  get_region_info = 5,
  get_region_io_fds = 6,
  get_irq_info = 7,
  set_irqs = 8,
  region_read = 9,
  region_write = 10,
  dma_read = 11,
  dma_write = 12,
  reset = 13,
  dirty_pages = 14,
  region_write_multi = 15,
  device_feature = 16,
  mig_data_read = 17,
  mig_data_write = 18,
};

struct Header {
  std::uint16_t id;
  Command command;
  std::uint32_t size; ///< of the message, this header included
  std::uint32_t flags;
  std::uint32_t error; ///< errno, with flag_error
};
static_assert(sizeof(Header) == 16);

// Header flags.
inline constexpr std::uint32_t type_mask = 15, type_command = 0, type_reply = 1;
inline constexpr std::uint32_t flag_no_reply = 16, flag_error = 32;

// Limits of this implementation. Clients may ask for them in VERSION; QEMU refuses more than 16 descriptors.
inline constexpr std::uint32_t max_fds = 16;
inline constexpr std::uint32_t max_transfer = 1024 * 1024; ///< bytes of one region access or DMA message
inline constexpr std::uint32_t max_message = max_transfer + 32;

// Payloads without the header.
struct VersionNumber {
  std::uint16_t major, minor;
};
struct DmaMapBody {
  std::uint32_t argsz, flags;
  std::uint64_t offset, iova, size;
};
struct DmaUnmapBody {
  std::uint32_t argsz, flags;
  std::uint64_t iova, size;
};
struct InfoBody {
  std::uint32_t argsz, flags, regions, irqs;
};
struct RegionInfoBody {
  std::uint32_t argsz, flags, index, cap_offset;
  std::uint64_t size, offset;
};
struct IrqInfoBody {
  std::uint32_t argsz, flags, index, count;
};
struct SetIrqsBody {
  std::uint32_t argsz, flags, index, start, count;
};
struct AccessBody {
  std::uint64_t offset;
  std::uint32_t region, count;
};
struct DmaAccessBody {
  std::uint64_t iova, count;
};
/// vfio_region_info_cap_sparse_mmap, its header included; SparseArea follow.
struct SparseCap {
  std::uint16_t id, version;
  std::uint32_t next, areas, reserved;
};
struct SparseArea {
  std::uint64_t offset, size;
};
/// What follows the info when there are capabilities, as in vfio_device_info, and the one that there may be here.
struct InfoCaps {
  std::uint32_t offset, pad;
};
/// Where windows can be: vfio_iommu_type1_info_cap_iova_range, its header included; IovaRange follow. The kernel gives
/// it with the IOMMU's info, which vfio-user does not have; the id is smartio's own.
struct IovaCap {
  std::uint16_t id, version;
  std::uint32_t next, ranges, reserved;
};
static_assert(sizeof(InfoCaps) == 8 && sizeof(IovaCap) == 16);
static_assert(sizeof(DmaMapBody) == 32 && sizeof(DmaUnmapBody) == 24 && sizeof(InfoBody) == 16);
static_assert(sizeof(RegionInfoBody) == 32 && sizeof(IrqInfoBody) == 16 && sizeof(SetIrqsBody) == 20);
static_assert(sizeof(AccessBody) == 16 && sizeof(DmaAccessBody) == 16);
static_assert(sizeof(SparseCap) == 16 && sizeof(SparseArea) == 16);

inline constexpr std::uint16_t sparse_cap_id = 1, sparse_cap_version = 1; // VFIO_REGION_INFO_CAP_SPARSE_MMAP
inline constexpr std::uint32_t info_flag_caps = 1 << 7;                   // VFIO_DEVICE_FLAGS_CAPS
inline constexpr std::uint16_t iova_cap_id = 0x8000, iova_cap_version = 1;
inline constexpr std::uint32_t most_iova_ranges = 64;
inline constexpr std::uint32_t dma_flag_read = 1, dma_flag_write = 2;
inline constexpr std::uint32_t unmap_flag_dirty = 1, unmap_flag_all = 2; // VFIO_DMA_UNMAP_FLAG_*

/// The T at the start of `bytes`, or nullopt when there are too few.
template <class T> std::optional<T> load(std::span<const std::byte> bytes) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  if (bytes.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// The bytes of `value`, borrowed.
template <class T> std::span<const std::byte> bytes_of(const T& value) noexcept {
  static_assert(std::has_unique_object_representations_v<T>); // no padding leaves the process
  return std::as_bytes(std::span(&value, 1));
}

} // namespace smartio::vfio::user
