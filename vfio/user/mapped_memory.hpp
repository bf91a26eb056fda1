// The memory that was mapped for a device, by descriptor, as its server may read and write it by message too
// (vfio-user, DMA_READ and DMA_WRITE). Only what is mapped now, and only with the rights of its window. Foreign files
// may shrink at any time: a page that is not there is an error, never a signal.
#pragma once

#include "../device.hpp"

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>

namespace smartio::vfio::user {

/// Single-threaded. Completions given out by noting() keep it.
class MappedMemory final : public std::enable_shared_from_this<MappedMemory> {
public:
  /// To be called with each request as it is sent: a window can be reached from then on, in place of none, and until
  /// the unmap of it has been answered.
  Completion noting(const Request& request, Completion done);

  /// `count` bytes, which may lie in several windows that adjoin. EFAULT: not all of them are in one, or their file is
  /// no memory (memfd, tmpfs, hugetlbfs), which might block; EACCES: a window is not one that the device may read.
  std::expected<std::vector<std::byte>, int> read(Iova iova, std::uint32_t count) const;
  /// The same for writing, 0 for success. Nothing is written where a part of it is refused.
  int write(Iova iova, std::span<const std::byte> data) const;

  void clear(); ///< nothing is mapped any more

private:
  struct FileKey { ///< two descriptors of one file that give the same access are one
    std::uint64_t device, inode;
    int access; ///< O_RDONLY, O_WRONLY or O_RDWR
    auto operator<=>(const FileKey&) const = default;
  };
  struct Window {
    std::uint64_t first, last;
    Access access;
    std::shared_ptr<const Fd> file; ///< none: it cannot be served
    std::uint64_t offset;           ///< of the window's start in the file
  };
  struct Part {
    const Window* window;
    std::uint64_t first, size;
  };
  static std::optional<FileKey> key_of(const Fd& fd);
  std::shared_ptr<const Fd> file_of(const Fd& fd);
  void settle(std::list<Window>::iterator window, bool mapped);
  void erase(const DmaUnmap& range);
  void drop(Window& window);
  const Window* find(std::uint64_t iova) const;
  std::expected<std::vector<Part>, int> parts(Iova iova, std::uint64_t count, Access right) const;

  WindowTable<Window> windows_;
  std::list<Window> pending_; ///< not answered yet
  std::map<FileKey, std::shared_ptr<const Fd>> files_;
};

} // namespace smartio::vfio::user
