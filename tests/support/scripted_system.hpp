// A kernel with one IOMMU group for tests of vfio/kernel: it logs what it is asked, fails or hangs where told to, and
// knows which of its descriptors are open, and in which order they were closed.
#pragma once

#include "kernel/device.hpp"
#include "result.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace testing {

using namespace smartio;
using namespace smartio::vfio;
namespace kernel = smartio::vfio::kernel;

class ScriptedSystem final : public kernel::System {
public:
  // What there is.
  bool cdev = false, dma_buf = false, dma_buf_maps = false, map_file = true;
  bool can_have_vfs = false;
  std::string driver_of_physical;                        ///< empty: the function is not a virtual one
  unsigned group = 12, vectors = 8, vectors_to_give = 0; ///< 0: as many as asked for
  std::uint32_t device_flags = device_flag_pci | device_flag_reset, msix_flags = irq_flag_eventfd | irq_flag_noresize;
  std::uint32_t windows = 65535;          ///< that there is room for, what is mapped not counted
  std::uint64_t bar0 = 0x4000, keeps = 0; ///< bytes of BAR 0; bytes that an unmap leaves mapped, and says so
  std::vector<IovaRange> ranges{{0, 0xfedfffff}, {0xfef00000, 0x7fffffffff}};
  std::vector<std::byte> config = std::vector<std::byte>(256);

  ScriptedSystem() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    put(0x00, {0x36, 0x1b, 0x10, 0x00, 0x06, 0x00, 0x10, 0x00}); // memory space and bus master on; capabilities
    put(0x34, {0x40});
    put(0x40, {0x11, 0x00, 0x07, 0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x30, 0x00, 0x00}); // MSI-X: BAR 0, 0x2000, 0x3000
  }
  ~ScriptedSystem() override { release(); }

  void put(std::size_t offset, std::initializer_list<int> bytes) {
    for (const int byte : bytes) config[offset++] = static_cast<std::byte>(byte);
  }
  std::uint16_t command() const { return static_cast<std::uint16_t>(std::to_integer<int>(config[4])); }

  // How it misbehaves. Not while a device is at work.
  void fail(std::string call, int number) { failures_[std::move(call)] = number; }
  void succeed(const std::string& call) { failures_.erase(call); }
  void hang(const std::string& call) { hanging_ = call; } ///< until release()
  void hang_instead(const std::string& call) {            ///< what hangs goes on
    const std::scoped_lock lock(mutex_);
    hanging_ = call;
    released_.notify_all();
  }
  void slow(std::string call, std::chrono::milliseconds time) { slow_ = {std::move(call), time}; }
  void release() {
    const std::scoped_lock lock(mutex_);
    hanging_.clear();
    released_.notify_all();
  }

  // What it saw.
  std::vector<std::string> calls() {
    const std::scoped_lock lock(mutex_);
    return std::exchange(calls_, {});
  }
  std::vector<std::string> seen() { ///< the same, and keeps them
    const std::scoped_lock lock(mutex_);
    return calls_;
  }
  void signal(std::uint32_t index) { signal_eventfd(own_events_.at(index).get()); } ///< REQ or ERR
  unsigned mappings() const { return mappings_; }                                   ///< of this process

  /// What the device reaches: what of which file, where. Pieces that continue each other are one.
  struct Reach {
    std::uint64_t iova, size;
    Access access;
    std::uint64_t inode, offset;
    bool operator==(const Reach&) const = default;
  };
  std::vector<Reach> reachable() {
    const std::scoped_lock lock(mutex_);
    std::vector<Reach> merged;
    for (const auto& [iova, reach] : reachable_) {
      auto* last = merged.empty() ? nullptr : &merged.back();
      if (last != nullptr &&
          Reach{last->iova + last->size, reach.size, last->access, last->inode, last->offset + last->size} == reach)
        last->size += reach.size;
      else
        merged.push_back(reach);
    }
    return merged;
  }

  /// What was closed since the last call, in order: when the last descriptor of each went.
  std::vector<std::string> closed() {
    const std::scoped_lock lock(mutex_);
    std::vector<std::string> names;
    for (epoll_event event; ::epoll_wait(epoll_.get(), &event, 1, 0) == 1;) {
      names.push_back(readers_.at(event.data.fd).name);
      readers_.erase(event.data.fd);
    }
    return names;
  }
  std::size_t open_descriptors() {
    closed();
    const std::scoped_lock lock(mutex_);
    return readers_.size();
  }

  // Files
  kernel::Outcome<std::string> read_link(const std::string& path) override {
    if (const int number = failure("read_link " + path)) return std::unexpected(number);
    if (path.ends_with("physfn") && driver_of_physical.empty()) return std::unexpected(ENOENT);
    if (path.ends_with("physfn/driver")) return "../../../../bus/pci/drivers/" + driver_of_physical;
    return path.ends_with("iommu_group") ? "../../../kernel/iommu_groups/" + std::to_string(group) : path;
  }
  kernel::Outcome<std::vector<std::string>> list(const std::string& path) override {
    if (!path.ends_with("vfio-dev"))
      return can_have_vfs ? std::vector<std::string>{"resource", "sriov_totalvfs"} : std::vector<std::string>{};
    if (!cdev) return std::unexpected(ENOENT);
    return std::vector<std::string>{"vfio3"};
  }
  kernel::Outcome<Fd> open(const std::string& path) override { return called("open " + path, path); }
  kernel::Outcome<kernel::FileStatus> status(int fd) override {
    struct stat file {};
    if (::fstat(fd, &file) != 0) return std::unexpected(errno);
    return kernel::FileStatus{S_ISREG(file.st_mode), static_cast<std::uint64_t>(file.st_size), file_page, file.st_dev,
                              file.st_ino};
  }
  std::uint64_t file_page = 4096;
  kernel::Outcome<std::size_t> read(int, std::uint64_t offset, std::span<std::byte> bytes) override {
    if (const int number = failure("read")) return std::unexpected(number);
    if (offset < config_at) return std::fill(bytes.begin(), bytes.end(), std::byte{0x5a}), bytes.size();
    const auto count = std::min<std::size_t>(bytes.size(), 64); // a kernel may give less than asked for
    const std::scoped_lock lock(mutex_);                        // companions have it open too
    std::copy_n(config.begin() + static_cast<std::ptrdiff_t>(offset - config_at), count, bytes.begin());
    return count;
  }
  kernel::Outcome<std::size_t> write(int, std::uint64_t offset, std::span<const std::byte> bytes) override {
    const bool is_config = offset >= config_at;
    if (const int number = called(is_config ? "config" : "register")) return std::unexpected(number);
    const std::scoped_lock lock(mutex_);
    if (is_config) std::ranges::copy(bytes, config.begin() + static_cast<std::ptrdiff_t>(offset - config_at));
    return bytes.size();
  }
  kernel::Outcome<std::byte*> map(int fd, std::uint64_t offset, std::uint64_t size, bool writable) override {
    if (const int number = called(fmt::format("mmap {:x}+{:x} {}", offset, size, writable ? "rw" : "r")))
      return std::unexpected(number);
    ++mappings_;
    const std::scoped_lock lock(mutex_);
    const auto address = next_address_;
    next_address_ += (size + 0xfffffff) / 0x10000000 * 0x10000000;
    memory_[address] = {inode(fd), offset};
    return reinterpret_cast<std::byte*>(address);
  }
  void unmap(std::byte*, std::uint64_t size) override {
    called(fmt::format("munmap {:x}", size));
    --mappings_;
  }
  std::uint64_t locked_memory_limit() override { return 8388608; }

  // Container and group
  kernel::Outcome<bool> group_viable(int) override {
    const int number = called("group_viable");
    if (number == EAGAIN) return false;
    if (number != 0) return std::unexpected(number);
    return true;
  }
  kernel::Outcome<void> set_container(int, int) override { return done("set_container"); }
  kernel::Outcome<void> set_iommu(int) override { return done("set_iommu"); }
  kernel::Outcome<kernel::Limits> container_limits(int) override { return limits(); }
  kernel::Outcome<Fd> group_device(int, const std::string& name) override {
    return called("group_device " + name, "device");
  }
  kernel::Outcome<void> map_dma(int, Iova iova, std::uint64_t size, Access access, std::byte* memory) override {
    if (const int number =
            called(fmt::format("map_dma {:x}+{:x} {} {:x}", std::to_underlying(iova), size, static_cast<int>(access),
                               reinterpret_cast<std::uint64_t>(memory) & 0xfffffff)))
      return std::unexpected(number);
    return reach(iova, size, access, memory);
  }
  kernel::Outcome<std::uint64_t> unmap_dma(int, Iova iova, std::uint64_t size) override {
    if (const int number = called(fmt::format("unmap_dma {:x}+{:x}", std::to_underlying(iova), size)))
      return std::unexpected(number);
    return cut(std::to_underlying(iova), size);
  }

  // iommufd
  kernel::Outcome<void> bind(int, int, const std::optional<kernel::Token>& token) override {
    return done(token
                    ? fmt::format("bind {:02x}..{:02x}", static_cast<int>((*token)[0]), static_cast<int>((*token)[15]))
                    : "bind");
  }
  kernel::Outcome<std::uint32_t> allocate_space(int) override {
    if (const int number = called("allocate_space")) return std::unexpected(number);
    return 7U;
  }
  kernel::Outcome<void> attach(int, std::uint32_t) override { return done("attach"); }
  kernel::Outcome<kernel::Limits> space_limits(int, std::uint32_t) override { return limits(); }
  kernel::Outcome<void> map_space(int, std::uint32_t, Iova iova, std::uint64_t size, Access access,
                                  std::byte* memory) override {
    if (const int number = called(fmt::format("map_space {:x}+{:x}", std::to_underlying(iova), size)))
      return std::unexpected(number);
    return reach(iova, size, access, memory);
  }
  kernel::Outcome<void> map_space_file(int, std::uint32_t, Iova iova, std::uint64_t size, Access access, int fd,
                                       std::uint64_t offset) override {
    if (!map_file) return std::unexpected(ENOTTY);
    if (const int number = called(fmt::format("map_space_file {:x}+{:x} {:x}", std::to_underlying(iova), size, offset)))
      return std::unexpected(number);
    return reach(iova, size, access, {inode(fd), offset});
  }
  kernel::Outcome<std::uint64_t> unmap_space(int, std::uint32_t, Iova iova, std::uint64_t size) override {
    if (const int number = called(fmt::format("unmap_space {:x}+{:x}", std::to_underlying(iova), size)))
      return std::unexpected(number);
    return cut(std::to_underlying(iova), size);
  }

  // Devices
  kernel::Outcome<Info> device_info(int fd) override {
    if (!is_device(fd)) return std::unexpected(ENOTTY);
    if (const int number = called("device_info")) return std::unexpected(number);
    return Info{device_flags, region_count, irq_count};
  }
  kernel::Outcome<kernel::Region> region(int, std::uint32_t index) override {
    if (const int number = failure("region")) return std::unexpected(number);
    constexpr auto rw = region_flag_read | region_flag_write;
    if (index == 0) return kernel::Region{rw | region_flag_mmap, bar0, 0, {{0, bar0}}};
    if (index == config_region) return kernel::Region{rw, config.size(), config_at, {}};
    if (index == 1) return kernel::Region{region_flag_read, 0x100, 1ULL << 40, {}};
    return kernel::Region{};
  }
  kernel::Outcome<IrqInfo> irq_info(int, std::uint32_t index) override {
    if (index == msix) return IrqInfo{msix_flags, vectors};
    if (index == intx) return IrqInfo{irq_flag_eventfd | irq_flag_maskable | irq_flag_automasked, 1};
    if (index == msi) return std::unexpected(EINVAL);
    return IrqInfo{irq_flag_eventfd | irq_flag_noresize, 1};
  }
  kernel::Outcome<unsigned> set_irqs(int, std::uint32_t flags, std::uint32_t index, std::uint32_t start,
                                     std::uint32_t count, std::span<const std::byte> data) override {
    auto text = fmt::format("set_irqs {:x} {} {}+{}", flags, index, start, count);
    if ((flags & irq_data_eventfd) != 0)
      for (std::size_t i = 0; i < data.size(); i += 4) text += take_event(index, data.subspan(i, 4)) ? " fd" : " -";
    if (const int number = called(text)) return std::unexpected(number);
    return vectors_to_give != 0 && index == msix && start + count > vectors_to_give ? vectors_to_give : 0U;
  }
  kernel::Outcome<void> reset(int) override { return done("reset"); }
  kernel::Outcome<void> probe_dma_buf(int) override {
    if (const int number = called("probe_dma_buf")) return std::unexpected(number);
    if (!dma_buf) return std::unexpected(ENOTTY);
    return {};
  }
  kernel::Outcome<Fd> export_dma_buf(int, std::uint32_t index, std::uint64_t offset, std::uint64_t size) override {
    if (!dma_buf) return std::unexpected(ENOTTY);
    if (!dma_buf_maps) failures_["mmap 0+1000 rw"] = ENODEV;
    return called(fmt::format("export_dma_buf {} {:x}+{:x}", index, offset, size), "dma_buf");
  }

private:
  static constexpr std::uint64_t config_at = 7ULL << 40;
  struct Reader {
    Fd fd;
    std::string name;
  };

  struct Backing {
    std::uint64_t inode, offset;
  };

  /// Maps and unmaps overlap nothing and cut nothing, as with the kernel (VFIO_TYPE1v2_IOMMU, IOMMU_IOAS_UNMAP).
  kernel::Outcome<void> reach(Iova at, std::uint64_t size, Access access, Backing backing) {
    const std::scoped_lock lock(mutex_);
    const auto iova = std::to_underlying(at);
    for (const auto& [start, there] : reachable_)
      if (start < iova + size && iova < start + there.size) return std::unexpected(EEXIST);
    reachable_[iova] = {iova, size, access, backing.inode, backing.offset};
    return {};
  }
  kernel::Outcome<void> reach(Iova at, std::uint64_t size, Access access, const std::byte* memory) {
    const auto address = reinterpret_cast<std::uint64_t>(memory);
    Backing backing{};
    {
      const std::scoped_lock lock(mutex_);
      const auto& [start, found] = *--memory_.upper_bound(address);
      backing = {found.inode, found.offset + (address - start)};
    }
    return reach(at, size, access, backing);
  }
  kernel::Outcome<std::uint64_t> cut(std::uint64_t iova, std::uint64_t size) {
    const std::scoped_lock lock(mutex_);
    const auto whole = [iova, size](const auto& entry) {
      return entry.first >= iova && entry.first + entry.second.size <= iova + size;
    };
    std::uint64_t bytes = 0;
    for (const auto& entry : reachable_) {
      if (whole(entry)) bytes += entry.second.size;
      if (!whole(entry) && entry.first < iova + size && iova < entry.first + entry.second.size)
        return std::unexpected(EINVAL);
    }
    if (keeps == 0) std::erase_if(reachable_, whole);
    return bytes - std::min(keeps, bytes);
  }

  /// The errno a call is to fail with; `name` may go on after what was told to fail.
  int failure(const std::string& name) {
    for (const auto& [call, number] : failures_)
      if (name.starts_with(call)) return number;
    return 0;
  }
  int called(const std::string& name) {
    std::unique_lock lock(mutex_);
    calls_.push_back(name);
    released_.wait(lock, [this, &name] { return hanging_.empty() || !name.starts_with(hanging_); });
    lock.unlock();
    if (!slow_.first.empty() && name.starts_with(slow_.first)) std::this_thread::sleep_for(slow_.second);
    return failure(name);
  }
  kernel::Outcome<void> done(const std::string& name) {
    if (const int number = called(name)) return std::unexpected(number);
    return {};
  }
  /// A descriptor whose end shows at the other end of a pipe.
  kernel::Outcome<Fd> called(const std::string& name, const std::string& node) {
    if (const int number = called(name)) return std::unexpected(number);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return std::unexpected(errno);
    const std::scoped_lock lock(mutex_);
    epoll_event event{.events = EPOLLET, .data = {.fd = ends[0]}};
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, ends[0], &event);
    readers_[ends[0]] = {Fd(ends[0]), node};
    if (node == "device" || node.starts_with("/dev/vfio/devices")) devices_.push_back(inode(ends[1]));
    return Fd(ends[1]);
  }
  static ino_t inode(int fd) {
    struct stat file {};
    return ::fstat(fd, &file) == 0 ? file.st_ino : 0;
  }
  bool is_device(int fd) { // copies included
    const std::scoped_lock lock(mutex_);
    return std::ranges::any_of(devices_, [number = inode(fd)](ino_t device) { return device == number; });
  }
  bool take_event(std::uint32_t index, std::span<const std::byte> descriptor) {
    std::int32_t fd;
    std::memcpy(&fd, descriptor.data(), sizeof fd);
    if (fd >= 0 && (index == err || index == req)) own_events_[index] = duplicate(fd).value();
    return fd >= 0;
  }
  kernel::Outcome<kernel::Limits> limits() {
    if (const int number = called("limits")) return std::unexpected(number);
    return kernel::Limits{4096, ranges, windows};
  }

  std::mutex mutex_;
  std::condition_variable released_;
  std::map<std::string, int> failures_;
  std::string hanging_;
  std::pair<std::string, std::chrono::milliseconds> slow_;
  std::vector<std::string> calls_;
  Fd epoll_;
  std::map<int, Reader> readers_;
  std::vector<ino_t> devices_;
  std::map<std::uint32_t, Fd> own_events_;
  std::atomic<unsigned> mappings_ = 0;
  std::uint64_t next_address_ = 0x10000000;
  std::map<std::uint64_t, Backing> memory_;  ///< of this process, by address
  std::map<std::uint64_t, Reach> reachable_; ///< by IOVA
};

/// A device at a ScriptedSystem, driven synchronously.
struct KernelBed {
  boost::asio::io_context io{1};
  std::shared_ptr<ScriptedSystem> system = std::make_shared<ScriptedSystem>();

  template <class Wanted> bool run_until(Wanted wanted) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!wanted() && std::chrono::steady_clock::now() < limit)
      if (io.run_one_for(std::chrono::milliseconds(10)) == 0) io.restart();
    return wanted();
  }
  Result<std::shared_ptr<kernel::Device>> open(kernel::Options options = {.bdf = {0, 6, 0, 0}}) {
    std::optional<Result<std::shared_ptr<kernel::Device>>> opened;
    kernel::Device::open(io, system, options, [&opened](auto result) { opened = std::move(result); });
    run_until([&opened] { return opened.has_value(); });
    return std::move(opened).value();
  }
  Reply ask(kernel::Device& device, Request request) {
    std::optional<Reply> reply;
    device.submit(std::move(request), [&reply](Reply answer) { reply = std::move(answer); });
    run_until([&reply] { return reply.has_value(); });
    return std::move(reply).value();
  }
  bool asked(const std::string& call) { ///< waits until the kernel is asked that
    return run_until([this, &call] { return std::ranges::count(system->seen(), call) != 0; });
  }
  int number(kernel::Device& device, Request request) {
    const auto reply = ask(device, std::move(request));
    return reply ? 0 : reply.error();
  }
  void close(std::shared_ptr<kernel::Device> device) {
    bool closed = false;
    device->close([&closed] { closed = true; });
    run_until([&closed] { return closed; });
  }
};

inline DmaMap window(const Fd& file, std::uint64_t iova, std::uint64_t size, std::uint64_t offset = 0,
                     Access access = Access::read_write) {
  return {Iova{iova}, size, access, file ? file.duplicate().value() : Fd(), offset};
}

} // namespace testing
