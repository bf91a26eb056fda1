// Descriptors: none outlives exec, and an eventfd that others hold too never blocks whoever signals or drains it.
#include "descriptors.hpp"
#include "catch.hpp"
#include "fd.hpp"
#include "file.hpp"
#include "kernel/system.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace smartio;

namespace {

constexpr std::uint64_t full = UINT64_MAX - 1;

/// An eventfd of somebody else's, who wants to block in read() and has filled it.
Fd full_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC));
  REQUIRE(::write(fd.get(), &full, sizeof full) == sizeof full);
  return fd;
}

bool closes_on_exec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

std::string scratch() {
  char name[] = "/tmp/smartio-fd-XXXXXX";
  REQUIRE(::mkdtemp(name) != nullptr);
  return name;
}

} // namespace

TEST_CASE("every descriptor that is made here is closed on exec") {
  const auto folder = scratch();
  const Fd inherited(::memfd_create("given by somebody", 0));
  REQUIRE_FALSE(closes_on_exec(inherited.get()));
  REQUIRE(::ftruncate(inherited.get(), 4096) == 0);
  const std::pair<const char*, std::function<Fd()>> made[]{
      {"a copy", [&] { return duplicate(inherited.get()).value(); }},
      {"a copy of an owner's", [&] { return make_eventfd().value().duplicate().value(); }},
      {"a memory file", [] { return make_memfd("test", 4096).value(); }},
      {"an eventfd", [] { return make_eventfd().value(); }},
      {"a directory's lock", [&] { return own_directory(folder + "/own").value(); }},
      {"a node of the kernel's", [] { return vfio::kernel::real_system()->open("/dev/null").value(); }},
  };
  for (const auto& [what, make] : made) {
    INFO(what);
    CHECK(closes_on_exec(make().get()));
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("a full eventfd does not block its signaller, whatever flags its other holder has given it, and stays full") {
  const auto shared = full_eventfd();
  signal_eventfd(shared.get());
  CHECK((::fcntl(shared.get(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK(drain_eventfd(shared.get()) >= full);
}

TEST_CASE("an empty eventfd does not block whoever drains it, whatever flags its other holder has given it") {
  const Fd shared(::eventfd(0, EFD_CLOEXEC));
  CHECK(drain_eventfd(shared.get()) == 0);
  signal_eventfd(shared.get());
  signal_eventfd(shared.get());
  CHECK(drain_eventfd(shared.get()) == 2);
  CHECK(drain_eventfd(shared.get()) == 0);
}

TEST_CASE("signals wake who blocks in read, and none of very many is lost, from several threads at once") {
  constexpr unsigned each = 5000, threads = 4;
  const Fd shared(::eventfd(0, EFD_CLOEXEC));
  std::uint64_t seen = 0;
  std::thread reader([&] {
    for (std::uint64_t count = 0; seen < each * threads; seen += count)
      if (::read(shared.get(), &count, sizeof count) != sizeof count) return;
  });
  std::vector<std::thread> signallers;
  for (unsigned i = 0; i < threads; ++i)
    signallers.emplace_back([&shared] {
      for (unsigned n = 0; n < each; ++n) signal_eventfd(shared.get());
    });
  for (auto& thread : signallers) thread.join();
  reader.join();
  CHECK(seen == each * threads);
}

TEST_CASE("what is no eventfd is not written to") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
  const Fd reading(ends[0]), writing(ends[1]);
  signal_eventfd(writing.get());
  signal_eventfd(-1);
  char byte = 0;
  CHECK(::read(reading.get(), &byte, 1) < 0);
  CHECK(drain_eventfd(-1) == 0);
}

TEST_CASE("what gives its holder a whole device is told from everything else, by the names that the kernel gives it") {
  CHECK(vfio::is_device_name("anon_inode:[vfio-device]")); // Linux, drivers/vfio/group.c
  CHECK(vfio::is_device_name("/dev/vfio/devices/vfio0"));  // of a cdev
  for (const auto* name : {"anon_inode:[eventfd]", "anon_inode:[iommufd]", "/dev/vda", "/dmabuf:", "socket:[1]", ""})
    CHECK_FALSE(vfio::is_device_name(name));

  const auto memory = make_memfd("memory", 4096).value();
  CHECK(vfio::kind_of_descriptor(memory.get()) == vfio::DescriptorKind::other);
  CHECK(vfio::kind_of_descriptor(full_eventfd().get()) == vfio::DescriptorKind::unknown);
  CHECK(vfio::kind_of_descriptor(-1) == vfio::DescriptorKind::unknown);
}
