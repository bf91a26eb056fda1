#include "system.hpp"

#include "abi.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace smartio::vfio::kernel {
namespace {

std::unexpected<int> last_error() { return std::unexpected(errno); }

/// ioctl that gives a number, or an errno.
template <class T> Outcome<int> ask(int fd, unsigned long request, T argument) {
  const int result = ::ioctl(fd, request, argument);
  if (result < 0) return last_error();
  return result;
}

/// ioctl that only succeeds or fails.
template <class T> Outcome<void> tell(int fd, unsigned long request, T argument) {
  if (::ioctl(fd, request, argument) < 0) return last_error();
  return {};
}

std::uint32_t map_flags(Access access) { // VFIO_DMA_MAP_FLAG_*: what the device may do
  const auto bits = static_cast<std::uint8_t>(access);
  return ((bits & 1) != 0 ? VFIO_DMA_MAP_FLAG_READ : 0U) | ((bits & 2) != 0 ? VFIO_DMA_MAP_FLAG_WRITE : 0U);
}

std::uint32_t space_flags(Access access) {
  const auto bits = static_cast<std::uint8_t>(access);
  return abi::map_fixed_iova | ((bits & 1) != 0 ? abi::map_readable : 0U) | ((bits & 2) != 0 ? abi::map_writeable : 0U);
}

std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

constexpr std::uint32_t most_info = 1024 * 1024; // bytes of an info with its capabilities

/// An info structure of the kernel followed by its chain of capabilities, in one buffer that grows to what it asks for.
template <class T> class InfoBuffer {
public:
  static Outcome<InfoBuffer> get(int fd, unsigned long request, T first) {
    InfoBuffer buffer;
    first.argsz = sizeof(T);
    for (std::uint32_t size = sizeof(T);;) {
      buffer.bytes_.assign(size, std::byte{0});
      first.argsz = size;
      std::memcpy(buffer.bytes_.data(), &first, sizeof first);
      const auto told = tell(fd, request, buffer.bytes_.data());
      if (!told) return std::unexpected(told.error());
      const auto wanted = buffer.info().argsz;
      if (wanted <= size || wanted > most_info) return buffer;
      size = wanted;
    }
  }

  T info() const { return at<T>(0).value(); }

  template <class S> std::optional<S> at(std::size_t offset) const {
    if (offset > bytes_.size() || sizeof(S) > bytes_.size() - offset) return std::nullopt;
    S value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }

  /// Where the capability `id` begins. Capabilities follow one another, so the walk ends.
  std::optional<std::size_t> find(std::uint16_t id, std::size_t first) const {
    for (std::size_t offset = first; offset != 0;) {
      const auto header = at<vfio_info_cap_header>(offset);
      if (!header) return std::nullopt;
      if (header->id == id) return offset;
      if (header->next <= offset) return std::nullopt;
      offset = header->next;
    }
    return std::nullopt;
  }

  /// The elements of the capability at `offset`, one that lists things: struct vfio_region_info_cap_sparse_mmap and
  /// struct vfio_iommu_type1_info_cap_iova_range begin alike.
  template <class S> std::vector<S> listed(std::size_t offset) const {
    struct Head {
      vfio_info_cap_header header;
      std::uint32_t count, reserved;
    };
    std::vector<S> values;
    const auto head = at<Head>(offset);
    for (std::uint32_t i = 0; head && i < head->count; ++i) {
      const auto value = at<S>(offset + sizeof(Head) + i * sizeof(S));
      if (!value) break;
      values.push_back(*value);
    }
    return values;
  }

private:
  std::vector<std::byte> bytes_;
};

class RealSystem final : public System {
public:
  Outcome<std::string> read_link(const std::string& path) override {
    std::array<char, 4096> target{};
    const auto length = ::readlink(path.c_str(), target.data(), target.size());
    if (length < 0) return last_error();
    return std::string(target.data(), static_cast<std::size_t>(length));
  }

  Outcome<std::vector<std::string>> list(const std::string& path) override {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error))
      names.push_back(entry->path().filename().string());
    if (error) return std::unexpected(error.value());
    std::ranges::sort(names);
    return names;
  }

  Outcome<Fd> open(const std::string& path) override {
    Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) return last_error();
    return fd;
  }

  Outcome<FileStatus> status(int fd) override {
    struct stat file {};
    struct statfs system {};
    if (::fstat(fd, &file) != 0 || ::fstatfs(fd, &system) != 0) return last_error();
    const bool huge = system.f_type == HUGETLBFS_MAGIC;
    return FileStatus{S_ISREG(file.st_mode), static_cast<std::uint64_t>(file.st_size),
                      huge ? static_cast<std::uint64_t>(system.f_bsize) : 4096U, file.st_dev, file.st_ino};
  }

  Outcome<std::size_t> read(int fd, std::uint64_t offset, std::span<std::byte> bytes) override {
    const auto count = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) return last_error();
    return static_cast<std::size_t>(count);
  }

  Outcome<std::size_t> write(int fd, std::uint64_t offset, std::span<const std::byte> bytes) override {
    const auto count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) return last_error();
    return static_cast<std::size_t>(count);
  }

  Outcome<std::byte*> map(int fd, std::uint64_t offset, std::uint64_t size, bool writable) override {
    const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void* memory = ::mmap(nullptr, size, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (memory == MAP_FAILED) return last_error();
    return static_cast<std::byte*>(memory);
  }

  void unmap(std::byte* address, std::uint64_t size) override { ::munmap(address, size); }

  std::uint64_t locked_memory_limit() override {
    rlimit limit{};
    return ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : 0;
  }

  Outcome<bool> group_viable(int group) override {
    vfio_group_status status{.argsz = sizeof status, .flags = 0};
    const auto told = tell(group, VFIO_GROUP_GET_STATUS, &status);
    if (!told) return std::unexpected(told.error());
    return (status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0;
  }

  Outcome<void> set_container(int group, int container) override {
    return tell(group, VFIO_GROUP_SET_CONTAINER, &container);
  }

  Outcome<void> set_iommu(int container) override { return tell(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU); }

  Outcome<Limits> container_limits(int container) override {
    using Buffer = InfoBuffer<vfio_iommu_type1_info>;
    const auto buffer = Buffer::get(container, VFIO_IOMMU_GET_INFO, {});
    if (!buffer) return std::unexpected(buffer.error());
    const auto info = buffer->info();
    Limits limits;
    if ((info.flags & VFIO_IOMMU_INFO_PGSIZES) != 0 && info.iova_pgsizes != 0)
      limits.page = info.iova_pgsizes & (~info.iova_pgsizes + 1);
    if ((info.flags & VFIO_IOMMU_INFO_CAPS) == 0) return limits;
    if (const auto at = buffer->find(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, info.cap_offset))
      for (const auto& range : buffer->listed<vfio_iova_range>(*at)) limits.ranges.push_back({range.start, range.end});
    if (const auto at = buffer->find(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, info.cap_offset))
      if (const auto available = buffer->at<vfio_iommu_type1_info_dma_avail>(*at)) limits.windows = available->avail;
    return limits;
  }

  Outcome<Fd> group_device(int group, const std::string& name) override {
    const auto device = ask(group, VFIO_GROUP_GET_DEVICE_FD, name.c_str()); // close-on-exec already
    if (!device) return std::unexpected(device.error());
    return Fd(*device);
  }

  Outcome<void> map_dma(int container, Iova iova, std::uint64_t size, Access access, std::byte* memory) override {
    vfio_iommu_type1_dma_map map{.argsz = sizeof map,
                                 .flags = map_flags(access),
                                 .vaddr = address_of(memory),
                                 .iova = std::to_underlying(iova),
                                 .size = size};
    return tell(container, VFIO_IOMMU_MAP_DMA, &map);
  }

  Outcome<std::uint64_t> unmap_dma(int container, Iova iova, std::uint64_t size) override {
    vfio_iommu_type1_dma_unmap unmap{};
    unmap.argsz = sizeof unmap;
    unmap.iova = std::to_underlying(iova);
    unmap.size = size;
    const auto told = tell(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
    if (!told) return std::unexpected(told.error());
    return unmap.size;
  }

  Outcome<void> bind(int device, int iommufd, const std::optional<Token>& token) override {
    abi::BindIommufd bind{.argsz = sizeof bind, .iommufd = iommufd};
    if (token) {
      bind.flags = abi::bind_flag_token;
      bind.token_uuid_ptr = address_of(token->data());
    }
    return tell(device, abi::device_bind_iommufd, &bind);
  }

  Outcome<std::uint32_t> allocate_space(int iommufd) override {
    abi::IoasAlloc allocate{.size = sizeof allocate};
    const auto told = tell(iommufd, abi::ioas_alloc, &allocate);
    if (!told) return std::unexpected(told.error());
    return allocate.out_ioas_id;
  }

  Outcome<void> attach(int device, std::uint32_t space) override {
    abi::AttachIommufdPt attach{.argsz = sizeof attach, .pt_id = space};
    return tell(device, abi::device_attach_iommufd_pt, &attach);
  }

  Outcome<Limits> space_limits(int iommufd, std::uint32_t space) override {
    std::vector<abi::IovaRange> ranges(16);
    abi::IoasIovaRanges ask_ranges{.size = sizeof ask_ranges, .ioas_id = space};
    for (int attempts = 2;;) {
      ask_ranges.num_iovas = static_cast<std::uint32_t>(ranges.size());
      ask_ranges.allowed_iovas = address_of(ranges.data());
      const auto told = tell(iommufd, abi::ioas_iova_ranges, &ask_ranges);
      if (told) break;
      if (told.error() != EMSGSIZE || --attempts == 0) return std::unexpected(told.error());
      ranges.resize(ask_ranges.num_iovas);
    }
    Limits limits{.page = std::max<std::uint64_t>(ask_ranges.out_iova_alignment, 4096), .ranges = {}};
    ranges.resize(std::min<std::size_t>(ranges.size(), ask_ranges.num_iovas));
    for (const auto& range : ranges) limits.ranges.push_back({range.start, range.last});
    return limits;
  }

  Outcome<void> map_space(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size, Access access,
                          std::byte* memory) override {
    abi::IoasMap map{.size = sizeof map,
                     .flags = space_flags(access),
                     .ioas_id = space,
                     .user_va = address_of(memory),
                     .length = size,
                     .iova = std::to_underlying(iova)};
    return tell(iommufd, abi::ioas_map, &map);
  }

  Outcome<void> map_space_file(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size, Access access, int fd,
                               std::uint64_t offset) override {
    abi::IoasMapFile map{.size = sizeof map,
                         .flags = space_flags(access),
                         .ioas_id = space,
                         .fd = fd,
                         .start = offset,
                         .length = size,
                         .iova = std::to_underlying(iova)};
    return tell(iommufd, abi::ioas_map_file, &map);
  }

  Outcome<std::uint64_t> unmap_space(int iommufd, std::uint32_t space, Iova iova, std::uint64_t size) override {
    abi::IoasUnmap unmap{.size = sizeof unmap, .ioas_id = space, .iova = std::to_underlying(iova), .length = size};
    const auto told = tell(iommufd, abi::ioas_unmap, &unmap);
    if (!told) return std::unexpected(told.error());
    return unmap.length;
  }

  Outcome<Info> device_info(int device) override {
    vfio_device_info info{};
    info.argsz = sizeof info;
    const auto told = tell(device, VFIO_DEVICE_GET_INFO, &info);
    if (!told) return std::unexpected(told.error());
    return Info{info.flags, info.num_regions, info.num_irqs};
  }

  Outcome<Region> region(int device, std::uint32_t index) override {
    vfio_region_info first{};
    first.index = index;
    const auto buffer = InfoBuffer<vfio_region_info>::get(device, VFIO_DEVICE_GET_REGION_INFO, first);
    if (!buffer) return std::unexpected(buffer.error());
    const auto info = buffer->info();
    Region region{info.flags & ~region_flag_caps, info.size, info.offset, {}};
    if ((info.flags & region_flag_mmap) == 0) return region;
    const auto at = (info.flags & region_flag_caps) != 0
                        ? buffer->find(VFIO_REGION_INFO_CAP_SPARSE_MMAP, info.cap_offset)
                        : std::nullopt;
    if (!at)
      region.areas.push_back({0, info.size});
    else
      for (const auto& area : buffer->listed<vfio_region_sparse_mmap_area>(*at))
        region.areas.push_back({area.offset, area.size});
    return region;
  }

  Outcome<IrqInfo> irq_info(int device, std::uint32_t index) override {
    vfio_irq_info info{.argsz = sizeof info, .flags = 0, .index = index, .count = 0};
    const auto told = tell(device, VFIO_DEVICE_GET_IRQ_INFO, &info);
    if (!told) return std::unexpected(told.error());
    return IrqInfo{info.flags, info.count};
  }

  Outcome<unsigned> set_irqs(int device, std::uint32_t flags, std::uint32_t index, std::uint32_t start,
                             std::uint32_t count, std::span<const std::byte> data) override {
    const vfio_irq_set head{static_cast<std::uint32_t>(sizeof head + data.size()), flags, index, start, count};
    std::vector<std::byte> bytes(sizeof head + data.size());
    std::memcpy(bytes.data(), &head, sizeof head);
    std::ranges::copy(data, bytes.begin() + sizeof head);
    const auto result = ask(device, VFIO_DEVICE_SET_IRQS, bytes.data());
    if (!result) return std::unexpected(result.error());
    return static_cast<unsigned>(*result);
  }

  Outcome<void> reset(int device) override { return tell(device, VFIO_DEVICE_RESET, nullptr); }

  Outcome<void> probe_dma_buf(int device) override {
    vfio_device_feature feature{};
    feature.argsz = sizeof feature;
    feature.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | abi::feature_dma_buf;
    return tell(device, VFIO_DEVICE_FEATURE, &feature);
  }

  Outcome<Fd> export_dma_buf(int device, std::uint32_t index, std::uint64_t offset, std::uint64_t size) override {
    abi::FeatureDmaBuf feature{
        sizeof feature, VFIO_DEVICE_FEATURE_GET | abi::feature_dma_buf, index, O_RDWR | O_CLOEXEC, 0, 1, offset, size};
    const auto fd = ask(device, VFIO_DEVICE_FEATURE, &feature);
    if (!fd) return std::unexpected(fd.error());
    return Fd(*fd);
  }
};

} // namespace

std::shared_ptr<System> real_system() { return std::make_shared<RealSystem>(); }

} // namespace smartio::vfio::kernel
