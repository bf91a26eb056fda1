// What the kernel understands and Debian 12's headers do not name yet. Names and layouts are those of <linux/vfio.h>
// and <linux/iommufd.h> of Linux 6.19 and later; each kernel refuses what it does not know with ENOTTY or EINVAL.
#pragma once

#include <cstdint>
#include <linux/ioctl.h>
#include <linux/vfio.h>

namespace smartio::vfio::kernel::abi {

// <linux/vfio.h>, Linux 6.6: VFIO_DEVICE_BIND_IOMMUFD; the token: 6.18, VFIO_DEVICE_BIND_FLAG_TOKEN
inline constexpr unsigned long device_bind_iommufd = _IO(VFIO_TYPE, VFIO_BASE + 18);
inline constexpr std::uint32_t bind_flag_token = 1;
struct BindIommufd { // struct vfio_device_bind_iommufd
  std::uint32_t argsz, flags;
  std::int32_t iommufd;
  std::uint32_t out_devid;
  std::uint64_t token_uuid_ptr;
};

// <linux/vfio.h>, Linux 6.6: VFIO_DEVICE_ATTACH_IOMMUFD_PT
inline constexpr unsigned long device_attach_iommufd_pt = _IO(VFIO_TYPE, VFIO_BASE + 19);
struct AttachIommufdPt { // struct vfio_device_attach_iommufd_pt
  std::uint32_t argsz, flags, pt_id;
};

// <linux/vfio.h>, Linux 6.19: VFIO_DEVICE_FEATURE_DMA_BUF
inline constexpr std::uint32_t feature_dma_buf = 11;
/// struct vfio_device_feature, struct vfio_device_feature_dma_buf and one struct vfio_region_dma_range
struct FeatureDmaBuf {
  std::uint32_t argsz, feature_flags, region_index, open_flags, flags, nr_ranges;
  std::uint64_t offset, length;
};

// <linux/iommufd.h>: IOMMUFD_TYPE; IOMMU_IOAS_ALLOC, _IOVA_RANGES, _MAP, _UNMAP: Linux 6.2; _MAP_FILE: 6.13
inline constexpr char iommufd_type = ';';
inline constexpr unsigned long ioas_alloc = _IO(iommufd_type, 0x81);
inline constexpr unsigned long ioas_iova_ranges = _IO(iommufd_type, 0x84);
inline constexpr unsigned long ioas_map = _IO(iommufd_type, 0x85);
inline constexpr unsigned long ioas_unmap = _IO(iommufd_type, 0x86);
inline constexpr unsigned long ioas_map_file = _IO(iommufd_type, 0x8f);

// <linux/iommufd.h>: enum iommufd_ioas_map_flags
inline constexpr std::uint32_t map_fixed_iova = 1, map_writeable = 2, map_readable = 4;

struct IoasAlloc { // struct iommu_ioas_alloc
  std::uint32_t size, flags, out_ioas_id;
};
struct IovaRange { // struct iommu_iova_range
  std::uint64_t start, last;
};
struct IoasIovaRanges { // struct iommu_ioas_iova_ranges
  std::uint32_t size, ioas_id, num_iovas, reserved;
  std::uint64_t allowed_iovas, out_iova_alignment;
};
struct IoasMap { // struct iommu_ioas_map
  std::uint32_t size, flags, ioas_id, reserved;
  std::uint64_t user_va, length, iova;
};
struct IoasMapFile { // struct iommu_ioas_map_file
  std::uint32_t size, flags, ioas_id;
  std::int32_t fd;
  std::uint64_t start, length, iova;
};
struct IoasUnmap { // struct iommu_ioas_unmap
  std::uint32_t size, ioas_id;
  std::uint64_t iova, length;
};

} // namespace smartio::vfio::kernel::abi
