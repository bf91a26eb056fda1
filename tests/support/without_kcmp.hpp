// A thread on a kernel that does not tell which open files are one: built without kcmp(2), or a sandbox forbids it.
#pragma once

#include <cerrno>
#include <cstddef>
#include <iterator>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>

namespace smartio::test {

/// Whether `doing` ran so: in a thread of its own, which ends with it.
template <typename Doing> bool without_kcmp(Doing doing) {
  bool forbidden = false;
  std::thread([&doing, &forbidden] {
    ::sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(::seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kcmp, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const ::sock_fprog program{std::size(code), code};
    forbidden =
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (forbidden) doing();
  }).join();
  return forbidden;
}

} // namespace smartio::test
