// The simulated NVMe controller's DMA windows: ranges, permissions, descriptors of every kind, memory that goes away.
#include "nvme_host.hpp"

#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace smartio;
using namespace smartio::testing;

namespace {

struct Windows {
  sim::GuestMemory memory;
  Fd fd = make_memfd("client", 1 << 20).value();

  int map(std::uint64_t iova, std::uint64_t size, int from = -2, std::uint64_t offset = 0,
          Access access = Access::read_write) {
    const int source = from == -2 ? fd.get() : from;
    auto copy = source < 0 ? Fd() : duplicate(source).value();
    const auto done = memory.map({static_cast<Iova>(iova), size, access, std::move(copy), offset});
    return done ? 0 : done.error();
  }
  std::expected<std::uint64_t, int> unmap(std::uint64_t iova, std::uint64_t size, bool all = false) {
    return memory.unmap({static_cast<Iova>(iova), size, all});
  }
  bool reaches(std::uint64_t address, std::uint64_t size) {
    std::vector<std::byte> bytes(size);
    return memory.read(address, bytes);
  }
};

class TemporaryFile {
public:
  explicit TemporaryFile(std::size_t bytes) {
    fd = Fd(::mkstemp(name_.data()));
    REQUIRE(fd);
    REQUIRE(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  }
  ~TemporaryFile() { ::unlink(name_.c_str()); }
  Fd open(int flags) const { return Fd(::open(name_.c_str(), flags | O_CLOEXEC)); }
  Fd fd;

private:
  std::string name_ = (std::filesystem::temp_directory_path() / "nvme_memory_XXXXXX").string();
};

} // namespace

TEST_CASE_METHOD(Windows, "malformed windows are refused") {
  CHECK(map(0, 0) == EINVAL);
  CHECK(map(0x10, 0x1000) == EINVAL);
  CHECK(map(0, 0x800) == EINVAL);
  CHECK(map(0, 0x1000, -2, 0x10) == EINVAL);
  CHECK(map(UINT64_MAX - 0xfff, 0x2000, -1) == EINVAL);
  CHECK(map(0x2000, UINT64_MAX - 0xfff, -1) == EINVAL);
  CHECK(map(0, 0x1000, -2, 0, static_cast<Access>(0)) == EINVAL);
  CHECK(map(0, 0x101000) == EINVAL); // beyond the end of the file
  CHECK(map(0, 0x1000, -2, 0x100000) == EINVAL);
  CHECK(map(0, 0x1000, -2, UINT64_MAX - 0xfff) == EINVAL);
  CHECK(memory.windows() == 0);
}

TEST_CASE_METHOD(Windows, "overlapping windows are refused") {
  REQUIRE(map(0x10000, 0x4000) == 0);
  CHECK(map(0x10000, 0x4000) == EEXIST);
  CHECK(map(0xf000, 0x2000) == EEXIST);
  CHECK(map(0x13000, 0x1000) == EEXIST);
  CHECK(map(0x11000, 0x1000) == EEXIST);
  CHECK(map(0, UINT64_MAX - 0xfff, -1) == EEXIST);
  CHECK(map(0xf000, 0x1000) == 0);
  CHECK(map(0x14000, 0x1000) == 0);
}

TEST_CASE_METHOD(Windows, "descriptors that are not memory, or not open for it, are refused") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const Fd one(ends[0]), two(ends[1]);
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), directory(::open("/", O_RDONLY | O_DIRECTORY));
  const auto event = make_eventfd().value();
  for (const int bad : {one.get(), two.get(), socket.get(), directory.get(), event.get()})
    CHECK(map(0, 0x1000, bad) == EINVAL);
  const TemporaryFile file(0x2000);
  const Fd read_only = file.open(O_RDONLY), write_only = file.open(O_WRONLY);
  CHECK(map(0, 0x1000, read_only.get()) == EACCES);
  CHECK(map(0, 0x1000, write_only.get(), 0, Access::write) == EACCES);
  CHECK(map(0, 0x1000, read_only.get(), 0, Access::read) == 0);
  CHECK(map(0x10000, 0x1000, file.fd.get()) == 0);
  // The descriptor open for writing lends no rights to the one that is not.
  CHECK(map(0x20000, 0x1000, read_only.get()) == EACCES);
}

TEST_CASE_METHOD(Windows, "a window without a descriptor is there but cannot be reached") {
  REQUIRE(map(0x1000, 0x1000, -1) == 0);
  CHECK_FALSE(reaches(0x1000, 1));
  CHECK(map(0x1000, 0x1000) == EEXIST);
  CHECK(unmap(0x1000, 0x1000) == 0x1000);
}

TEST_CASE_METHOD(Windows, "an access may span adjoining windows but no hole") {
  REQUIRE(map(0x1000, 0x1000, -2, 0x8000) == 0);
  REQUIRE(map(0x2000, 0x1000, -2, 0x3000) == 0);
  REQUIRE(map(0x4000, 0x1000) == 0);
  CHECK(reaches(0x1000, 0x2000));
  CHECK_FALSE(reaches(0x1000, 0x2001));
  CHECK_FALSE(reaches(0xfff, 2));
  CHECK_FALSE(reaches(0x4fff, 2));
  std::vector<iovec> pieces;
  CHECK(memory.locate(0x1800, 0x1000, Access::write, pieces));
  CHECK(pieces.size() == 2);
}

TEST_CASE_METHOD(Windows, "unmapping takes every window of a range, also over holes and to the end of the space") {
  for (const std::uint64_t at : {0x1000ULL, 0x5000ULL, 0x9000ULL, 0xfffffffffffff000ULL}) REQUIRE(map(at, 0x1000) == 0);
  CHECK(unmap(0x2000, 0x3000) == 0); // nothing there
  CHECK(unmap(0, 0x8000) == 0x2000);
  CHECK_FALSE(reaches(0x1000, 1));
  CHECK(reaches(0x9000, 0x1000));
  CHECK(unmap(0x8000, 0 - std::uint64_t{0x8000}) == 0x2000); // ends at 2^64
  CHECK(memory.windows() == 0);
}

TEST_CASE_METHOD(Windows, "a range that cuts a window is refused and drops nothing") {
  REQUIRE(map(0x1000, 0x1000) == 0);
  REQUIRE(map(0x2000, 0x4000) == 0);
  CHECK(unmap(0x1000, 0x2000) == std::unexpected(EINVAL));
  CHECK(unmap(0x3000, 0x10000) == std::unexpected(EINVAL));
  CHECK(unmap(0x3000, 0x1000) == std::unexpected(EINVAL));
  CHECK(unmap(0, 0) == std::unexpected(EINVAL));
  CHECK(unmap(0x1000, UINT64_MAX) == std::unexpected(EINVAL));
  CHECK(memory.windows() == 2);
  CHECK(unmap(0x1000, 0, true) == std::unexpected(EINVAL));
  CHECK(unmap(0, 0, true) == 0x5000);
}

TEST_CASE_METHOD(Windows, "too many windows are refused") {
  for (std::uint64_t i = 0; i < sim::GuestMemory::max_windows; ++i) REQUIRE(map(i << 13, 0x1000) == 0);
  CHECK(map(1ULL << 40, 0x1000) == ENOSPC);
  CHECK(reaches(65534ULL << 13, 0x1000));
  CHECK(unmap(0, 0, true) == 65535ULL << 12);
}

TEST_CASE_METHOD(Windows, "memory that the client cuts off is an error, not a signal") {
  const bool unsealed_memory = GENERATE(true, false);
  const Fd memfd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const TemporaryFile file(0x4000);
  REQUIRE(::ftruncate(memfd.get(), 0x4000) == 0);
  const int source = unsealed_memory ? memfd.get() : file.fd.get();
  REQUIRE(map(0, 0x4000, source) == 0);
  const std::array<std::byte, 8> word{std::byte{42}};
  CHECK(memory.write(0x3000, word));
  CHECK(reaches(0, 0x4000));
  REQUIRE(::ftruncate(source, 0x1000) == 0);
  CHECK(reaches(0, 0x1000));
  CHECK_FALSE(reaches(0x3000, 8));
  CHECK_FALSE(memory.write(0x3000, word));
  CHECK_FALSE(memory.post(0x3000, std::array<std::byte, 16>{}));
  std::vector<iovec> pieces;
  REQUIRE(memory.locate(0x3000, 0x1000, Access::write, pieces));
  auto disk = nvme::FileStore::from_fd(make_memfd("disk", 0x1000).value(), 512).value();
  CHECK(disk.read(0, pieces) == EFAULT);
}

TEST_CASE_METHOD(Windows, "a file that grew is mapped to its new end") {
  const TemporaryFile file(0x1000);
  REQUIRE(map(0, 0x1000, file.fd.get()) == 0);
  CHECK(map(0x10000, 0x1000, file.fd.get(), 0x1000) == EINVAL);
  REQUIRE(::ftruncate(file.fd.get(), 0x2000) == 0);
  CHECK(map(0x10000, 0x1000, file.fd.get(), 0x1000) == 0);
  CHECK(reaches(0, 0x1000));
  CHECK(reaches(0x10000, 0x1000));
}
