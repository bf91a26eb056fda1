// What a device said of itself, and the requests that it spares the device.
#include "catch.hpp"
#include "descriptors.hpp"
#include "own_mounts.hpp"
#include "skipped.hpp"
#include "small_device.hpp"
#include "user/view.hpp"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio;
using smartio::test::OwnMounts;
using smartio::test::SmallDevice;
using user::DeviceView;

namespace {

std::shared_ptr<const DeviceView> view_of(Device& device) {
  std::shared_ptr<const DeviceView> view;
  DeviceView::load({std::shared_ptr<void>(), &device}, [&view](auto loaded) { view = std::move(loaded).value(); });
  REQUIRE(view);
  return view;
}

SetIrqs irqs(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count) {
  return {flags, index, start, count, {}, {}};
}

DmaMap window(Fd fd, std::uint64_t offset, std::uint64_t size, Access access) {
  return {Iova{0}, size, access, std::move(fd), offset};
}

} // namespace

TEST_CASE("a device is asked for everything once") {
  SmallDevice device;
  const auto view = view_of(device);
  CHECK(device.requests == 1 + 9 + 5);
  CHECK(view->regions[0].areas.size() == 1);
  CHECK(view->regions[8].size == 0); // it would not tell
  CHECK(view->irqs[2].count == 65);
}

TEST_CASE("a view without registers holds no descriptor and lets nothing be mapped") {
  SmallDevice device;
  const auto view = view_of(device);
  REQUIRE(view->regions[0].fd);
  const auto bare = user::without_registers(*view);
  CHECK(bare->info.regions == view->info.regions);
  CHECK(bare->irqs[msix].count == view->irqs[msix].count);
  for (std::size_t i = 0; i < bare->regions.size(); ++i) {
    CHECK(bare->regions[i].size == view->regions[i].size);
    CHECK_FALSE(bare->regions[i].fd);
    CHECK(bare->regions[i].areas.empty());
    CHECK((bare->regions[i].flags & region_flag_mmap) == 0);
  }
}

TEST_CASE("a device that everybody lets go of while it is asked lives until it has answered") {
  struct Late final : SmallDevice {
    std::vector<Completion>& kept;
    explicit Late(std::vector<Completion>& questions) : kept(questions) {}
    void submit(Request request, Completion done) override {
      if (std::holds_alternative<GetInfo>(request)) return kept.push_back(std::move(done));
      SmallDevice::submit(std::move(request), std::move(done));
    }
  };
  std::vector<Completion> kept;
  auto device = std::make_shared<Late>(kept);
  std::shared_ptr<const DeviceView> view;
  DeviceView::load(device, [&view](auto loaded) { view = std::move(loaded).value(); });
  const std::weak_ptr<Late> watched = std::exchange(device, nullptr);
  CHECK_FALSE(watched.expired());
  std::exchange(kept, {}).front()(Info{device_flag_pci, 9, 5});
  REQUIRE(view);
  CHECK(view->regions[0].size == 8192);
  CHECK(watched.expired());
}

TEST_CASE("a device that tells nothing has no view") {
  struct Mute : Device {
    std::vector<Completion> kept;
    void submit(Request, Completion done) override { kept.push_back(std::move(done)); }
    void on_lost(std::move_only_function<void()>) override {}
  } mute;
  int error = 0;
  DeviceView::load({std::shared_ptr<void>(), &mute}, [&error](auto view) { error = view.error(); });
  CHECK(error == 0);
  SECTION("dropped") { mute.kept.clear(); }
  SECTION("wrong answer") { mute.kept.front()(Done{}); }
  SECTION("failed") { mute.kept.front()(std::unexpected(EIO)); }
  CHECK(error == EIO);
}

TEST_CASE("a device cannot claim more regions than there are") {
  struct Boaster : SmallDevice {
    void submit(Request request, Completion done) override {
      if (std::holds_alternative<GetInfo>(request)) return done(Info{0, UINT32_MAX, UINT32_MAX});
      SmallDevice::submit(std::move(request), std::move(done));
    }
  } boaster;
  CHECK(view_of(boaster)->info.regions == region_count);
  CHECK(view_of(boaster)->info.irqs == irq_count);
}

TEST_CASE("requests outside of what the device has are refused") {
  SmallDevice device;
  const auto view = view_of(device);
  CHECK(view->check(GetRegionInfo{8}) == 0);
  CHECK(view->check(GetRegionInfo{9}) == EINVAL);
  CHECK(view->check(GetRegionInfo{UINT32_MAX}) == EINVAL);
  CHECK(view->check(GetIrqInfo{4}) == 0);
  CHECK(view->check(GetIrqInfo{5}) == EINVAL);
  CHECK(view->check(RegionRead{0, 0, 8192}) == 0);
  CHECK(view->check(RegionRead{0, 8191, 1}) == 0);
  CHECK(view->check(RegionRead{0, 8192, 1}) == EINVAL);
  CHECK(view->check(RegionRead{0, 1, 8192}) == EINVAL);
  CHECK(view->check(RegionRead{0, UINT64_MAX - 7, 8}) == EINVAL);
  CHECK(view->check(RegionRead{3, 0, 1}) == EINVAL); // empty
  CHECK(view->check(RegionRead{9, 0, 1}) == EINVAL);
  CHECK(view->check(RegionRead{1, 0, 1}) == EACCES);
  CHECK(view->check(RegionWrite{1, 0, std::vector<std::byte>(4)}) == 0);
  CHECK(view->check(RegionWrite{2, 0, std::vector<std::byte>(4)}) == EACCES);
  CHECK(view->check(RegionWrite{0, 8190, std::vector<std::byte>(4)}) == EINVAL);
}

TEST_CASE("interrupts outside of what the device has are refused") {
  SmallDevice device;
  const auto view = view_of(device);
  CHECK(view->check(irqs(0x24, msix, 0, 65)) == 0);
  CHECK(view->check(irqs(0x24, msix, 64, 1)) == 0);
  CHECK(view->check(irqs(0x24, msix, 65, 1)) == EINVAL);
  CHECK(view->check(irqs(0x24, msix, 64, 2)) == EINVAL);
  CHECK(view->check(irqs(0x24, msix, 1, UINT32_MAX)) == EINVAL);
  CHECK(view->check(irqs(0x24, msix, UINT32_MAX, 1)) == EINVAL);
  CHECK(view->check(irqs(0x24, msi, 0, 1)) == EINVAL); // has none
  CHECK(view->check(irqs(0x21, msi, 0, 0)) == 0);      // none to disable
  CHECK(view->check(irqs(0x24, 5, 0, 1)) == EINVAL);
  CHECK(view->check(irqs(0x21, UINT32_MAX, 0, 0)) == EINVAL);
  CHECK(view->check(irqs(0x24, err, 0, 1)) == 0);
  CHECK(view->check(irqs(0x24, err, 0, 2)) == EINVAL);
  CHECK(view->check(irqs(0x09, err, 0, 1)) == EINVAL);
  CHECK(view->check(irqs(0x09, intx, 0, 1)) == 0);
}

TEST_CASE("only eventfds can be interrupts, and their flags stay the client's") {
  const auto check = [](int fd) {
    auto set = irqs(0x24, msix, 0, 1);
    set.eventfds.emplace_back(fd);
    return user::check_descriptors(std::move(set));
  };
  int pipe[2], pair[2];
  REQUIRE(::pipe(pipe) == 0);
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const Fd read_end(pipe[0]), far_end(pair[0]);
  CHECK(check(pipe[1]) == EINVAL);
  CHECK(check(pair[1]) == EINVAL);
  CHECK(check(make_memfd("no eventfd", 4096).value().release()) == EINVAL);
  CHECK(check(::open("/dev/null", O_RDWR)) == EINVAL);
  CHECK(check(::open("/", O_RDONLY)) == EINVAL);

  for (const int flags : std::initializer_list<int>{0, EFD_NONBLOCK, EFD_SEMAPHORE}) {
    const Fd eventfd(::eventfd(0, EFD_CLOEXEC | flags));
    const int before = ::fcntl(eventfd.get(), F_GETFL);
    CHECK(check(::dup(eventfd.get())) == 0);
    CHECK(::fcntl(eventfd.get(), F_GETFL) == before);
  }
}

TEST_CASE("memory files and eventfds are not taken for registers, and what nobody knows is not taken for harmless") {
  CHECK(kind_of_descriptor(make_memfd("/dmabuf:", 4096).value().get()) == DescriptorKind::other);
  CHECK(kind_of_descriptor(make_eventfd().value().get()) == DescriptorKind::unknown);
  CHECK(kind_of_descriptor(Fd(::open("/dev/null", O_RDWR)).get()) == DescriptorKind::unknown); // as any node
  CHECK(kind_of_descriptor(-1) == DescriptorKind::unknown);
}

TEST_CASE("a node of VFIO's is a device's own descriptor, and without /proc nothing is taken for harmless") {
  OwnMounts mounts;
  if (!mounts) SKIPPED("no mounts of its own");
  REQUIRE(mounts.hide("/dev"));
  REQUIRE(std::filesystem::create_directories("/dev/vfio/devices"));
  const Fd node(::open("/dev/vfio/devices", O_RDONLY | O_CLOEXEC | O_DIRECTORY));
  CHECK(kind_of_descriptor(node.get()) == DescriptorKind::device);
  REQUIRE(mounts.hide("/proc"));
  CHECK(kind_of_descriptor(node.get()) == DescriptorKind::unknown);
  CHECK(kind_of_descriptor(make_eventfd().value().get()) == DescriptorKind::unknown);
}

TEST_CASE("a window's descriptor must be a file that holds it, with the rights it needs") {
  const auto file = make_memfd("window", 65536).value();
  const auto again = [&file](int flags) {
    return Fd(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), flags | O_CLOEXEC));
  };
  const auto check = [](DmaMap map) { return user::check_descriptors(std::move(map)); };
  CHECK(check(window({}, 0, 1ULL << 40, Access::read_write)) == 0); // reached by messages
  CHECK(check(window(file.duplicate().value(), 0, 65536, Access::read_write)) == 0);
  CHECK(check(window(file.duplicate().value(), 61440, 4096, Access::write)) == 0);
  CHECK(check(window(file.duplicate().value(), 61440, 8192, Access::write)) == EINVAL);
  CHECK(check(window(file.duplicate().value(), 65536, 4096, Access::read)) == EINVAL);
  CHECK(check(window(file.duplicate().value(), UINT64_MAX - 4095, 4096, Access::read)) == EINVAL);
  CHECK(check(window(again(O_RDONLY), 0, 4096, Access::read)) == 0);
  CHECK(check(window(again(O_RDONLY), 0, 4096, Access::read_write)) == EACCES);
  CHECK(check(window(again(O_RDONLY), 0, 4096, Access::write)) == EACCES);
  CHECK(check(window(again(O_WRONLY), 0, 4096, Access::write)) == EACCES);
  CHECK(check(window(again(O_PATH), 0, 4096, Access::read)) == EACCES);
  CHECK(check(window(Fd(::open("/", O_RDONLY)), 0, 4096, Access::read)) == EINVAL);
  CHECK(check(window(Fd(::open("/dev/zero", O_RDWR)), 0, 4096, Access::read)) == EINVAL);
  CHECK(check(window(make_eventfd().value(), 0, 4096, Access::read)) == EINVAL);
}
