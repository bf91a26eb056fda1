// A piece of a client's memory file, mapped here. Decides how it may be touched: a sealed memory file by plain loads
// and stores, anything else only through the kernel, which answers an access behind the end of a shrunken file by an
// error where a load would be killed by SIGBUS.
#pragma once

#include "fd.hpp"
#include "mapping.hpp"

#include <compare>
#include <expected>
#include <map>
#include <memory>
#include <span>
#include <sys/types.h>

namespace smartio::sim {

/// One mapping of a file; shared by all windows into it.
struct FileMapping {
  Mapping mapping;
  std::uint64_t offset = 0; ///< in the file
  bool sealed = false;      ///< memory that cannot go away: plain loads and stores are safe
};

/// Copies between this process and mapped client memory; false when the memory is not there (any more).
bool copy_in(std::span<std::byte> to, const std::byte* from, bool sealed) noexcept;
bool copy_out(std::byte* to, std::span<const std::byte> from, bool sealed) noexcept;

/// Mappings of one client's files. A file that many windows show (a guest's memory, page by page) is mapped once.
class FileMappings {
public:
  struct Piece {
    std::shared_ptr<const FileMapping> file;
    std::byte* data = nullptr;
  };
  /// Maps `bytes` at `offset` of `fd`, both multiples of the page size, read-only or also writable; or an errno: EINVAL
  /// (not a regular or memory file, or beyond its end), EACCES (not open for that), ENOMEM.
  std::expected<Piece, int> map(const Fd& fd, std::uint64_t offset, std::uint64_t bytes, bool writable);

private:
  struct Key {
    dev_t device;
    ino_t inode;
    bool writable;
    auto operator<=>(const Key&) const = default;
  };
  std::map<Key, std::weak_ptr<const FileMapping>> files_;
};

} // namespace smartio::sim
