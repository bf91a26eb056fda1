// Other mounts than the machine's, for this process and while this lives: as a container has them.
#pragma once

#include "fd.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

namespace smartio::test {

class OwnMounts {
public:
  OwnMounts() : before_(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)) {
    there_ = before_ && ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  }
  OwnMounts(const OwnMounts&) = delete;
  OwnMounts& operator=(const OwnMounts&) = delete;
  ~OwnMounts() {
    if (there_) ::setns(before_.get(), CLONE_NEWNS);
  }

  explicit operator bool() const { return there_; } ///< only root can
  /// An empty folder in the place of this one.
  bool hide(const char* folder) { return there_ && ::mount("none", folder, "tmpfs", 0, nullptr) == 0; }

private:
  Fd before_;
  bool there_ = false;
};

} // namespace smartio::test
