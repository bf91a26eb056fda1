#include <smartio/memory.hpp>

#include "catch.hpp"
#include "fd.hpp"

#include <fcntl.h>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>

using smartio::Errc;
using smartio::Fd;
using smartio::Memory;

namespace {

bool is(const smartio::Result<Memory>& result, std::error_code code) { return !result && result.error().code == code; }
bool is(const smartio::Result<Memory>& result, Errc code) { return is(result, make_error_code(code)); }
bool is(const smartio::Result<Memory>& result, int number) { return is(result, {number, std::system_category()}); }

} // namespace

TEST_CASE("allocated memory is zero, whole pages and sealed against shrinking") {
  const auto memory = Memory::allocate(5000);
  REQUIRE(memory);
  CHECK(memory->size() == 8192);
  CHECK(memory->offset() == 0);
  for (const std::byte byte : memory->bytes()) REQUIRE(byte == std::byte{0});
  CHECK(::ftruncate(memory->fd(), 4096) != 0);
  CHECK((::fcntl(memory->fd(), F_GET_SEALS) & F_SEAL_SHRINK) != 0);
  CHECK((::fcntl(memory->fd(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("copies share the pages, which live until the last is gone") {
  auto memory = Memory::allocate(4096);
  REQUIRE(memory);
  const std::optional<Memory> copy = *memory;
  memory->bytes()[7] = std::byte{42};
  CHECK(copy->bytes()[7] == std::byte{42});
  memory = Memory::allocate(4096);
  CHECK(copy->bytes()[7] == std::byte{42});
}

TEST_CASE("memory from a descriptor is that part of the file, on a descriptor of its own") {
  auto file = Memory::allocate(16384);
  REQUIRE(file);
  auto part = Memory::from_fd(file->fd(), 4096, 8192);
  REQUIRE(part);
  CHECK(part->fd() != file->fd());
  CHECK(part->size() == 8192);
  CHECK(part->offset() == 4096);
  part->bytes()[8191] = std::byte{1};
  CHECK(file->bytes()[12287] == std::byte{1});
}

TEST_CASE("ranges outside the file, odd offsets and absurd sizes are refused") {
  const auto file = Memory::allocate(8192);
  REQUIRE(file);
  CHECK(is(Memory::from_fd(file->fd(), 0, 8193), Errc::bad_request));
  CHECK(is(Memory::from_fd(file->fd(), 8192, 1), Errc::bad_request));
  CHECK(is(Memory::from_fd(file->fd(), SIZE_MAX - 4095, 8192), Errc::bad_request));
  CHECK(is(Memory::from_fd(file->fd(), 0, 0), Errc::bad_request));
  CHECK(is(Memory::from_fd(file->fd(), 100, 100), Errc::bad_request));
  CHECK(is(Memory::allocate(0), Errc::bad_request));
  CHECK(is(Memory::allocate(SIZE_MAX), Errc::bad_request));
}

TEST_CASE("descriptors that are no file, or cannot be written, are refused") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const Fd in(ends[0]), out(ends[1]);
  CHECK(is(Memory::from_fd(in.get(), 0, 4096), Errc::bad_request));
  CHECK(is(Memory::from_fd(-1, 0, 4096), EBADF));
  const auto file = Memory::allocate(4096);
  REQUIRE(file);
  const Fd read_only(::open(("/proc/self/fd/" + std::to_string(file->fd())).c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(read_only);
  CHECK(is(Memory::from_fd(read_only.get(), 0, 4096), EACCES));
}
