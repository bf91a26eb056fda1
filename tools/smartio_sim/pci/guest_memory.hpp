// The client's memory as a device model reaches it: the windows of DMA_MAP, by address. Enforces range and permission
// of every access; what is not mapped, or has no descriptor, cannot be reached from here.
#pragma once

#include "device.hpp"
#include "file_window.hpp"

#include <span>
#include <sys/uio.h>
#include <vector>

namespace smartio::sim {

class GuestMemory {
public:
  static constexpr std::size_t max_windows = 65535;

  /// Adds a window, or says why not: EINVAL (size 0, not in pages, past 2^64, no such piece of the file), EEXIST
  /// (overlaps another), EACCES, ENOSPC (too many), ENOMEM.
  std::expected<void, int> map(vfio::DmaMap request);

  /// Drops every window within the range and says how many bytes those were; a range that cuts a window is EINVAL and
  /// drops nothing.
  std::expected<std::uint64_t, int> unmap(const vfio::DmaUnmap& request);

  /// Copies; false when any byte is out of reach (then the copy may be partial).
  bool read(std::uint64_t address, std::span<std::byte> to) const;
  bool write(std::uint64_t address, std::span<const std::byte> from);

  /// Writes an entry so that whoever sees its last four bytes sees all of it. `address` is a multiple of 16.
  bool post(std::uint64_t address, std::span<const std::byte, 16> entry);

  enum class Reach {
    direct,   ///< read and write get there
    no_file,  ///< a window without a descriptor
    denied,   ///< the window does not allow it
    unmapped, ///< there is no window
  };
  struct Stretch {
    Reach reach;
    std::uint64_t bytes; ///< at least 1
  };
  /// What holds for the first of `bytes` bytes (at least 1) from `address` on, and for how many of them.
  Stretch reach(std::uint64_t address, std::uint64_t bytes, Access access) const;

  /// Appends where [address, address + bytes) is in this process, for system calls only: they report memory that has
  /// gone as EFAULT. `access` is what the device wants to do.
  bool locate(std::uint64_t address, std::uint64_t bytes, Access access, std::vector<iovec>& pieces) const;

  std::size_t windows() const noexcept { return windows_.size(); }

private:
  struct Window {
    std::uint64_t size;
    Access access;
    FileMappings::Piece piece; ///< empty without a descriptor
  };
  struct Place {
    std::byte* data;
    std::uint64_t bytes;
    bool sealed;
  };
  /// The part of [address, address + bytes) that lies in one window; no bytes when it cannot be reached.
  Place find(std::uint64_t address, std::uint64_t bytes, Access access) const;
  bool overlaps(std::uint64_t first, std::uint64_t last) const;

  std::map<std::uint64_t, Window> windows_;
  FileMappings files_;
};

} // namespace smartio::sim
