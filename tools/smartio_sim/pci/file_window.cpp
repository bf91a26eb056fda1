#include "file_window.hpp"

#include <cstring>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace smartio::sim {

namespace {

/// Files up to here are mapped whole; of larger ones only the piece asked for.
constexpr std::uint64_t whole_file_limit = 1ULL << 40;

/// Pages of the kernel's shared memory that the seal keeps from being cut off. (Huge pages may run out at a fault, and
/// a disk may fail: those are not safe to load from.)
bool is_sealed_memory(int fd) {
  struct statfs system {};
  if (::fstatfs(fd, &system) != 0 || system.f_type != TMPFS_MAGIC) return false;
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

std::expected<std::shared_ptr<const FileMapping>, int> map_piece(int fd, std::uint64_t offset, std::uint64_t bytes,
                                                                 bool writable) {
  auto mapping = Mapping::map(fd, offset, bytes, writable);
  if (!mapping) return std::unexpected(mapping.error().code.value());
  return std::make_shared<const FileMapping>(FileMapping{std::move(*mapping), offset, is_sealed_memory(fd)});
}

bool covers(const FileMapping& file, std::uint64_t offset, std::uint64_t bytes) {
  return offset >= file.offset && in_range(offset - file.offset, bytes, file.mapping.bytes().size());
}

} // namespace

bool copy_in(std::span<std::byte> to, const std::byte* from, bool sealed) noexcept {
  if (sealed) {
    std::memcpy(to.data(), from, to.size());
    return true;
  }
  const iovec local{to.data(), to.size()}, remote{const_cast<std::byte*>(from), to.size()};
  return ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(to.size());
}

bool copy_out(std::byte* to, std::span<const std::byte> from, bool sealed) noexcept {
  if (sealed) {
    std::memcpy(to, from.data(), from.size());
    return true;
  }
  const iovec local{const_cast<std::byte*>(from.data()), from.size()}, remote{to, from.size()};
  return ::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(from.size());
}

std::expected<FileMappings::Piece, int> FileMappings::map(const Fd& fd, std::uint64_t offset, std::uint64_t bytes,
                                                          bool writable) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return std::unexpected(errno);
  if (!S_ISREG(status.st_mode)) return std::unexpected(EINVAL);
  const auto file_size = static_cast<std::uint64_t>(status.st_size);
  if (!in_range(offset, bytes, file_size)) return std::unexpected(EINVAL);
  // The right to write is the descriptor's, so a read-only one must not profit from another's mapping.
  const int access = ::fcntl(fd.get(), F_GETFL) & O_ACCMODE;
  if (access == O_WRONLY || (writable && access != O_RDWR)) return std::unexpected(EACCES);

  std::erase_if(files_, [](const auto& entry) { return entry.second.expired(); });
  const Key key{status.st_dev, status.st_ino, writable};
  auto file = files_.contains(key) ? files_[key].lock() : nullptr;
  if (!file || !covers(*file, offset, bytes)) {
    const std::uint64_t whole = file_size - file_size % 4096;
    auto mapped = whole <= whole_file_limit && in_range(offset, bytes, whole)
                      ? map_piece(fd.get(), 0, whole, writable)
                      : map_piece(fd.get(), offset, bytes, writable);
    if (!mapped) return std::unexpected(mapped.error());
    file = std::move(*mapped);
    files_[key] = file;
  }
  return Piece{file, file->mapping.bytes().data() + (offset - file->offset)};
}

} // namespace smartio::sim
