#include "file_store.hpp"

#include "result.hpp"

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio::sim::nvme {

namespace {

Result<Fd> open_file(const std::string& path, bool create) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | (create ? O_CREAT : 0), 0600));
  if (fd) return fd;
  if (errno == ENOENT && !create) return fail(Errc::bad_request, "{} does not exist; --size creates it.", path);
  return fail_errno(errno, fmt::format("open {}", path));
}

Result<std::uint64_t> file_size(const Fd& fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, fmt::format("stat {}", path));
  if (!S_ISREG(status.st_mode)) return fail(Errc::bad_request, "{} is not a regular file.", path);
  return static_cast<std::uint64_t>(status.st_size);
}

/// Moves all of `pieces` by `call` (preadv or pwritev), which may do it in parts; changes the pieces.
int move_all(int fd, std::uint64_t offset, std::span<iovec> pieces, auto call) {
  constexpr std::size_t most = 1024; // IOV_MAX
  while (!pieces.empty()) {
    const auto count = static_cast<int>(std::min(pieces.size(), most));
    const ssize_t moved = call(fd, pieces.data(), count, static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return moved == 0 ? EIO : errno;
    offset += static_cast<std::uint64_t>(moved);
    auto left = static_cast<std::size_t>(moved);
    while (!pieces.empty() && left >= pieces.front().iov_len) {
      left -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (left == 0) continue;
    pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + left;
    pieces.front().iov_len -= left;
  }
  return 0;
}

} // namespace

Result<FileStore> FileStore::open(const std::string& path, std::optional<std::uint64_t> bytes,
                                  std::uint32_t block_size) {
  auto fd = TRY(open_file(path, bytes.has_value()));
  const auto size = TRY(file_size(fd, path));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(Errc::busy, "{} is in use by another simulated controller.", path);
  if (bytes && *bytes > size && ::ftruncate(fd.get(), static_cast<off_t>(*bytes)) != 0)
    return fail_errno(errno, fmt::format("extend {} to {} bytes", path, *bytes));
  const std::uint64_t now = std::max(size, bytes.value_or(0));
  if (now == 0 || now % block_size != 0)
    return fail(Errc::bad_request, "{} has {} bytes, not a whole number of blocks of {}.", path, now, block_size);
  return FileStore(std::move(fd), now / block_size, block_size);
}

Result<FileStore> FileStore::from_fd(Fd fd, std::uint32_t block_size) {
  const auto size = TRY(file_size(fd, "the file"));
  return FileStore(std::move(fd), size / block_size, block_size);
}

Result<std::string> FileStore::name() const {
  struct statx status {};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0)
    return fail_errno(errno, "look at the disk's file");
  if ((status.stx_mask & STATX_BTIME) != 0)
    return fmt::format("{} {}.{:09}", status.stx_ino, status.stx_btime.tv_sec, status.stx_btime.tv_nsec);
  return fmt::format("{} {}:{}", status.stx_ino, status.stx_dev_major, status.stx_dev_minor);
}

int FileStore::read(std::uint64_t block, std::span<iovec> to) {
  return move_all(fd_.get(), block * block_size_, to, ::preadv);
}

int FileStore::write(std::uint64_t block, std::span<iovec> from, Until until) {
  const int flags = until == Until::stable ? RWF_DSYNC : 0;
  const auto call = [flags](int fd, const iovec* pieces, int count, off_t offset) {
    return ::pwritev2(fd, pieces, count, offset, flags);
  };
  return move_all(fd_.get(), block * block_size_, from, call);
}

int FileStore::flush() { return ::fdatasync(fd_.get()) == 0 ? 0 : errno; }

int FileStore::zero(std::uint64_t block, std::uint64_t count, bool deallocate) {
  const std::uint64_t offset = block * block_size_, bytes = count * block_size_;
  if (bytes == 0) return 0;
  const int mode = deallocate ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  if (::fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) return 0;
  return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(offset, bytes) : errno;
}

int FileStore::write_zeros(std::uint64_t offset, std::uint64_t bytes) {
  static const std::array<std::byte, 65536> zeros{};
  while (bytes > 0) {
    const auto step = std::min<std::uint64_t>(bytes, zeros.size());
    const ssize_t written = ::pwrite(fd_.get(), zeros.data(), step, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written == 0 ? EIO : errno;
    offset += static_cast<std::uint64_t>(written);
    bytes -= static_cast<std::uint64_t>(written);
  }
  return 0;
}

} // namespace smartio::sim::nvme
