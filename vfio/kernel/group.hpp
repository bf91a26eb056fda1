// An IOMMU group that is open in this process: its one domain and the windows in it. The functions of a group share
// both, and the last that leaves closes them. Blocks; called on the functions' worker threads, and the one place where
// those meet: they take turns (turns.hpp).
#pragma once

#include "iommu.hpp"
#include "progress.hpp"
#include "windows.hpp"

namespace smartio::vfio::kernel {

class Group;

/// One function's part in its group. Its device's descriptor must be closed before this goes.
class Member {
public:
  struct Joined;
  /// Opens the function, and the group unless another function has. Errors: as open_failure's, and Errc::wrong_state
  /// (no such interface here, or the group is open with the other one).
  static Result<Joined> join(std::shared_ptr<System> system, const Place& place, Interface wanted,
                             const std::optional<VfToken>& token, const Progress& progress);

  /// A GiB of a file at a time, with progress after each. Errors are errnos with a sentence: EINVAL (no range, not
  /// aligned, reserved, beyond its file, no memory), EEXIST (overlaps another window), ENOSPC (the kernel's limit on
  /// windows), ENOMEM (RLIMIT_MEMLOCK), ECANCELED (progress said so), or the kernel's own. Nothing has changed then;
  /// but ENOTRECOVERABLE: a part is mapped and the kernel does not unmap it.
  Result<void> map(const DmaMap& window, const Progress& progress);
  /// The function's windows wholly within the range, or all; gives their bytes. EINVAL when it would cut one, with
  /// nothing changed. Other errors: the windows not reached yet, and the memory of the failed one, stay.
  Result<std::uint64_t> unmap(const DmaUnmap& range, const Progress& progress);

  Interface interface() const { return interface_; }
  const std::vector<IovaRange>& ranges() const { return ranges_; } ///< as they were when the function joined

  Member(Member&&) noexcept = default;
  Member& operator=(Member&&) = delete;
  ~Member(); ///< unmaps what is left of this function's windows

private:
  explicit Member(std::shared_ptr<Group> group); ///< in the group's turn
  std::shared_ptr<Group> group_;
  unsigned id_;
  Interface interface_;
  std::vector<IovaRange> ranges_;
};

struct Member::Joined {
  Member member;
  Fd device; ///< closed first
};

} // namespace smartio::vfio::kernel
