#include "transfer.hpp"

#include "mapping.hpp"
#include "output.hpp"
#include "result.hpp"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nvme {
namespace {

using smartio::Errc;
using smartio::fail;
using smartio::fail_errno;
using smartio::in_range;
using smartio::Result;

constexpr unsigned most_under_way = 8;
constexpr std::size_t chunk_bytes = std::size_t{256} << 10;

// How a long transfer is cut: chunk c goes through buffer c % depth.
struct Plan {
  unsigned depth;
  std::size_t chunk_blocks;
};

Result<Plan> prepare(Driver& driver) {
  const Identity& identity = driver.identity();
  const std::size_t bytes = std::min(identity.max_transfer, chunk_bytes);
  const Plan plan{std::min(most_under_way, driver.max_depth()), bytes / identity.block_size};
  TRY(driver.make_buffers(plan.depth, bytes));
  return plan;
}

// As much as fits, or less at the end of the input.
Result<std::size_t> read_full(int in, std::span<std::byte> space) {
  std::size_t filled = 0;
  while (filled < space.size()) {
    const ssize_t got = ::read(in, space.data() + filled, space.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) { // whoever else has the same open file may have set O_NONBLOCK
      ::pollfd waiting{in, POLLIN, 0};
      ::poll(&waiting, 1, -1);
      continue;
    }
    if (got < 0) return fail_errno(errno, "read from standard input");
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  return filled;
}

Result<void> check_input(const Identity& identity, std::uint64_t lba, std::uint64_t done_blocks, std::uint64_t bytes) {
  if (bytes % identity.block_size != 0)
    return fail(Errc::bad_request, "The input is not whole blocks of {} bytes: {} bytes are left over",
                identity.block_size, bytes % identity.block_size);
  if (!in_range(lba, done_blocks + bytes / identity.block_size, identity.blocks))
    return fail(Errc::bad_request, "The input does not fit: from block {} on there are {} blocks", lba,
                lba < identity.blocks ? identity.blocks - lba : 0);
  return {};
}

// The size of a file is known before anything is written.
Result<void> check_file(const Identity& identity, std::uint64_t lba, int in) {
  struct stat file = {};
  const off_t at = ::lseek(in, 0, SEEK_CUR);
  if (::fstat(in, &file) != 0 || !S_ISREG(file.st_mode) || at < 0 || at > file.st_size)
    return check_input(identity, lba, 0, 0);
  return check_input(identity, lba, 0, static_cast<std::uint64_t>(file.st_size - at));
}

} // namespace

Result<void> read_blocks(Driver& driver, std::uint64_t lba, std::uint64_t count, int out) {
  const Identity& identity = driver.identity();
  if (count == 0 || !in_range(lba, count, identity.blocks))
    return fail(Errc::bad_request, "Blocks {} to {} cannot be read: there are {} blocks", lba, lba + count - 1,
                identity.blocks);
  const Plan plan = TRY(prepare(driver));
  const auto blocks_of = [&plan, count](std::uint64_t chunk) {
    return std::min<std::uint64_t>(plan.chunk_blocks, count - chunk * plan.chunk_blocks);
  };
  const std::uint64_t chunks = (count - 1) / plan.chunk_blocks + 1;
  std::vector<bool> arrived(plan.depth);
  for (std::uint64_t asked = 0, given = 0; given < chunks; ++given) {
    for (; asked < chunks && asked - given < plan.depth; ++asked)
      TRY(driver.submit(io_read, lba + asked * plan.chunk_blocks, blocks_of(asked),
                        static_cast<unsigned>(asked % plan.depth)));
    const auto buffer = static_cast<unsigned>(given % plan.depth);
    while (!arrived[buffer]) {
      const unsigned done = TRY(driver.wait());
      arrived[done] = true;
    }
    arrived[buffer] = false;
    TRY(smartio::write_all(out, driver.buffer(buffer).first(blocks_of(given) * identity.block_size)));
  }
  return {};
}

Result<void> write_blocks(Driver& driver, std::uint64_t lba, int in) {
  const Identity& identity = driver.identity();
  TRY(check_file(identity, lba, in));
  const Plan plan = TRY(prepare(driver));
  std::vector<bool> busy(plan.depth);
  unsigned under_way = 0;
  const auto retire = [&driver, &busy, &under_way]() -> Result<void> {
    const unsigned done = TRY(driver.wait());
    busy[done] = false;
    --under_way;
    return {};
  };
  std::uint64_t written = 0; // blocks
  for (unsigned buffer = 0;; buffer = (buffer + 1) % plan.depth) {
    while (busy[buffer]) TRY(retire());
    const auto space = driver.buffer(buffer).first(plan.chunk_blocks * identity.block_size);
    const std::size_t bytes = TRY(read_full(in, space));
    if (bytes == 0) break;
    TRY(check_input(identity, lba, written, bytes));
    TRY(driver.submit(io_write, lba + written, bytes / identity.block_size, buffer));
    written += bytes / identity.block_size;
    busy[buffer] = true;
    ++under_way;
  }
  while (under_way > 0) TRY(retire());
  return driver.flush();
}

} // namespace nvme
