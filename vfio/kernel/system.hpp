// Everything this folder asks of the operating system, one small typed function each; tests script another System.
// Nothing is decided here. Calls may block; each gives its result or an errno.
#pragma once

#include "../device.hpp"

#include <array>
#include <optional>
#include <smartio/types.hpp>
#include <span>
#include <string>

namespace smartio::vfio::kernel {

template <class T> using Outcome = std::expected<T, int>; ///< or an errno

/// What an IOMMU domain can map.
struct Limits {
  std::uint64_t page = 4096;          ///< the smallest unit, in bytes
  std::vector<IovaRange> ranges;      ///< where; empty: the kernel does not say
  std::uint32_t windows = UINT32_MAX; ///< how many more
};

struct FileStatus {
  bool regular;       ///< memory files included
  std::uint64_t size; ///< bytes
  std::uint64_t page; ///< what mappings of it must be aligned to: bytes of a huge page for hugetlb files
  std::uint64_t device, inode;
};

/// A region as the kernel tells it; `offset` is where it begins in the device's descriptor.
struct Region {
  std::uint32_t flags = 0;
  std::uint64_t size = 0, offset = 0;
  std::vector<RegionArea> areas; ///< what of it can be mapped
};

using Token = std::array<std::byte, 16>; ///< a UUID, in the order of its text

class System {
public:
  virtual ~System() = default;

  // Files
  virtual Outcome<std::string> read_link(const std::string& path) = 0;         ///< what it points to, as it stands
  virtual Outcome<std::vector<std::string>> list(const std::string& path) = 0; ///< names in a directory, sorted
  virtual Outcome<Fd> open(const std::string& path) = 0;                       ///< for reading and writing
  virtual Outcome<FileStatus> status(int fd) = 0;
  virtual Outcome<std::size_t> read(int fd, std::uint64_t offset, std::span<std::byte> bytes) = 0;
  virtual Outcome<std::size_t> write(int fd, std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual Outcome<std::byte*> map(int fd, std::uint64_t offset, std::uint64_t size, bool writable) = 0;
  virtual void unmap(std::byte* address, std::uint64_t size) = 0;
  virtual std::uint64_t locked_memory_limit() = 0; ///< RLIMIT_MEMLOCK, bytes

  // Container and group: VFIO_GROUP_GET_STATUS and so on
  virtual Outcome<bool> group_viable(int group) = 0;
  virtual Outcome<void> set_container(int group, int container) = 0;
  virtual Outcome<void> set_iommu(int container) = 0; ///< VFIO_TYPE1v2_IOMMU
  virtual Outcome<Limits> container_limits(int container) = 0;
  virtual Outcome<Fd> group_device(int group, const std::string& name) = 0;
  virtual Outcome<void> map_dma(int container, Iova iova, std::uint64_t size, Access access, std::byte* memory) = 0;
  virtual Outcome<std::uint64_t> unmap_dma(int container, Iova iova, std::uint64_t size) = 0; ///< bytes it took away

  // iommufd: VFIO_DEVICE_BIND_IOMMUFD and so on, IOMMU_IOAS_*
  virtual Outcome<void> bind(int device, int iommufd, const std::optional<Token>& token) = 0;
  virtual Outcome<std::uint32_t> allocate_space(int iommufd) = 0; ///< an IOAS
  virtual Outcome<void> attach(int device, std::uint32_t space) = 0;
  virtual Outcome<Limits> space_limits(int iommufd, std::uint32_t space) = 0;
  virtual Outcome<void> map_space(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size, Access access,
                                  std::byte* memory) = 0;
  virtual Outcome<void> map_space_file(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size, Access access,
                                       int fd, std::uint64_t offset) = 0;
  virtual Outcome<std::uint64_t> unmap_space(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size) = 0;

  // Devices: VFIO_DEVICE_*
  virtual Outcome<Info> device_info(int device) = 0;
  virtual Outcome<Region> region(int device, std::uint32_t index) = 0;
  virtual Outcome<IrqInfo> irq_info(int device, std::uint32_t index) = 0;
  /// `data`: `count` bytes with irq_data_bool, `count` descriptors (-1: none) with irq_data_eventfd. The result is 0,
  /// or how many vectors there are when fewer than asked for; then nothing has changed.
  virtual Outcome<unsigned> set_irqs(int device, std::uint32_t flags, std::uint32_t index, std::uint32_t start,
                                     std::uint32_t count, std::span<const std::byte> data) = 0;
  virtual Outcome<void> reset(int device) = 0;
  virtual Outcome<void> probe_dma_buf(int device) = 0;
  virtual Outcome<Fd> export_dma_buf(int device, std::uint32_t region, std::uint64_t offset, std::uint64_t size) = 0;
};

std::shared_ptr<System> real_system();

} // namespace smartio::vfio::kernel
