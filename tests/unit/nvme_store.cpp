// The file behind a simulated NVMe controller: which system calls bring data to the medium, what their errors become,
// and what makes a file the same disk. The calls below stand before those of the C library.
#include "nvme_host.hpp"

#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

struct Calls {
  int data_syncs = 0, stable_writes = 0, plain_writes = 0;
  int sync_error = 0;
  bool holes = true;
  std::size_t most = SIZE_MAX; ///< bytes that are written at a time
} calls;

} // namespace

extern "C" int fdatasync(int fd) {
  ++calls.data_syncs;
  if (calls.sync_error == 0) return static_cast<int>(::syscall(SYS_fdatasync, fd));
  errno = calls.sync_error;
  return -1;
}

extern "C" ssize_t pwritev2(int fd, const iovec* pieces, int count, off_t offset, int flags) {
  ++((flags & RWF_DSYNC) != 0 ? calls.stable_writes : calls.plain_writes);
  const iovec part{pieces->iov_base, calls.most};
  if (pieces->iov_len > calls.most) return ::syscall(SYS_pwritev2, fd, &part, 1, offset, 0, flags);
  return ::syscall(SYS_pwritev2, fd, pieces, count, offset, 0, flags);
}

extern "C" int fallocate(int fd, int mode, off_t offset, off_t size) {
  if (calls.holes) return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, size));
  errno = EOPNOTSUPP;
  return -1;
}

using namespace smartio;
using namespace smartio::testing;
namespace fs = std::filesystem;
using nvme::Store;

namespace {

/// A file of 64 KiB in a folder of its own.
struct Folder {
  Folder() {
    calls = {};
    std::string name = fs::temp_directory_path() / "nvme_store.XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    place = name;
    make("disk");
  }
  ~Folder() { fs::remove_all(place); }
  fs::path make(const std::string& name) const {
    const Fd fd(::open((place / name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(::ftruncate(fd.get(), 65536) == 0);
    return place / name;
  }
  nvme::FileStore open(const std::string& name = "disk") const {
    return nvme::FileStore::open(place / name, std::nullopt, 512).value();
  }
  std::string name_of(const std::string& name) const { return open(name).name().value(); }
  fs::path place;
};

int write(Store& store, std::uint64_t block, Store::Until until, unsigned char value = 1) {
  std::array<unsigned char, 512> bytes;
  bytes.fill(value);
  iovec piece{bytes.data(), bytes.size()};
  return store.write(block, std::span(&piece, 1), until);
}

int first_byte(Store& store, std::uint64_t block) {
  std::array<unsigned char, 512> bytes;
  iovec piece{bytes.data(), bytes.size()};
  return store.read(block, std::span(&piece, 1)) == 0 ? bytes[0] : -1;
}

} // namespace

TEST_CASE_METHOD(Folder, "a flush is fdatasync, and its error is told") {
  auto store = open();
  CHECK(write(store, 0, Store::Until::cached) == 0);
  CHECK(calls.data_syncs == 0);
  CHECK(store.flush() == 0);
  CHECK(calls.data_syncs == 1);
  calls.sync_error = EIO;
  CHECK(store.flush() == EIO);
}

TEST_CASE_METHOD(Folder, "a stable write asks for its own data to be synced, a cached one for nothing") {
  auto store = open();
  CHECK(write(store, 3, Store::Until::cached, 5) == 0);
  CHECK((calls.stable_writes == 0 && calls.plain_writes == 1));
  CHECK(write(store, 4, Store::Until::stable, 6) == 0);
  CHECK((calls.stable_writes == 1 && calls.plain_writes == 1 && calls.data_syncs == 0));
  CHECK((first_byte(store, 3) == 5 && first_byte(store, 4) == 6));
}

TEST_CASE_METHOD(Folder, "a write that the system does in parts is done to its end") {
  auto store = open();
  calls.most = GENERATE(1U, 100U, 256U);
  std::array<unsigned char, 1024> bytes, found{};
  bytes.fill(7);
  std::array pieces{iovec{bytes.data(), 512}, iovec{bytes.data() + 512, 512}};
  CHECK(store.write(2, pieces, Store::Until::cached) == 0);
  CHECK(calls.plain_writes > 1);
  std::array into{iovec{found.data(), found.size()}};
  CHECK(store.read(2, into) == 0);
  CHECK(found == bytes);
  CHECK(first_byte(store, 4) == 0);
}

TEST_CASE_METHOD(Folder, "a file is one controller's at a time") {
  {
    const auto store = open();
    const auto other = nvme::FileStore::open(place / "disk", std::nullopt, 512);
    REQUIRE_FALSE(other.has_value());
    CHECK(other.error().code == Errc::busy);
  }
  CHECK(nvme::FileStore::open(place / "disk", std::nullopt, 512).has_value());
}

TEST_CASE_METHOD(Folder, "blocks are zeroed with and without holes, their neighbours stay") {
  calls.holes = GENERATE(true, false);
  const bool deallocate = GENERATE(true, false);
  auto store = open();
  for (std::uint64_t block = 0; block < 4; ++block) CHECK(write(store, block, Store::Until::cached) == 0);
  CHECK(store.zero(1, 2, deallocate) == 0);
  CHECK((first_byte(store, 0) == 1 && first_byte(store, 1) == 0 && first_byte(store, 2) == 0));
  CHECK(first_byte(store, 3) == 1);
  CHECK(fs::file_size(place / "disk") == 65536);
}

TEST_CASE_METHOD(Folder, "a file is the same disk after a restart, under another name, by another path") {
  const auto before = name_of("disk");
  CHECK(name_of("disk") == before);
  CHECK(name_of("../" + place.filename().string() + "/disk") == before);
  fs::create_symlink(place / "disk", place / "link");
  CHECK(name_of("link") == before);
  fs::create_directory(place / "elsewhere");
  fs::rename(place / "disk", place / "elsewhere/other");
  CHECK(name_of("elsewhere/other") == before);
}

TEST_CASE_METHOD(Folder, "another file is another disk: a copy, and one that takes the place of the first") {
  const auto before = name_of("disk");
  fs::copy_file(place / "disk", place / "copy");
  CHECK(name_of("copy") != before);
  fs::remove(place / "disk");
  make("disk"); // perhaps with the number that the first had
  CHECK(name_of("disk") != before);
}

TEST_CASE_METHOD(Folder, "a file that shrinks under the controller is a media error") {
  NvmeHost host(std::make_shared<nvme::FileStore>(open()));
  host.enable();
  REQUIRE(host.io(nvme::io_opcode::read, 8, 1).status == Status::success);
  fs::resize_file(place / "disk", 4096);
  CHECK(host.io(nvme::io_opcode::read, 7, 1).status == Status::success);
  CHECK(host.io(nvme::io_opcode::read, 8, 1).status == Status::unrecovered_read);
}
