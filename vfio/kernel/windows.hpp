// Which windows a domain has, and which functions of the group they belong to. Pure bookkeeping: mapping and unmapping
// is the group's.
#pragma once

#include "pages.hpp"

#include <map>

namespace smartio::vfio::kernel {

struct Window {
  std::uint64_t size;
  Access access;
  bool reachable; ///< false: without memory, only known
  /// The memory, when it is a file's: the same memory under the same address is shared by the functions of a group.
  struct File {
    std::uint64_t device, inode, offset;
    bool operator==(const File&) const = default;
  };
  std::optional<File> file;
  std::uint64_t piece;           ///< the kernel maps that many bytes at a time; the last piece may be smaller
  std::vector<unsigned> members; ///< which functions asked for it
  std::vector<Pages> mapped{};   ///< the pieces that are mapped, from the first on

  std::uint64_t pieces() const { return (size - 1) / piece + 1; }
};

/// Whether [iova, iova+size) is a range: not empty, and not beyond 2^64.
constexpr bool is_range(std::uint64_t iova, std::uint64_t size) { return size != 0 && size - 1 <= UINT64_MAX - iova; }

class Windows {
public:
  enum class Room { free, same, taken };

  /// Whether `window` can be at `iova` for a function: `same`, when another function of the group has just that one.
  Room room(unsigned member, std::uint64_t iova, const Window& window) const;
  Window& add(std::uint64_t iova, Window window);
  void share(unsigned member, std::uint64_t iova) { windows_.at(iova).members.push_back(member); }

  /// The function's windows in a range, none of which may be cut: EINVAL.
  Outcome<std::vector<std::uint64_t>> within(unsigned member, std::uint64_t iova, std::uint64_t size) const;
  std::vector<std::uint64_t> of(unsigned member) const;

  Window& at(std::uint64_t iova) { return windows_.at(iova); }
  void remove(std::uint64_t iova);
  std::uint64_t pieces() const { return pieces_; } ///< of all windows
  std::uint64_t bytes() const;                     ///< of memory that is mapped

private:
  std::map<std::uint64_t, Window> windows_; ///< by address; they do not overlap
  std::uint64_t pieces_ = 0;
};

} // namespace smartio::vfio::kernel
