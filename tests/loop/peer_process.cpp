// Ending the process at the other end of a socket: that one, and nobody else.
#include "user/peer_process.hpp"
#include "catch.hpp"
#include "fd.hpp"
#include "own_mounts.hpp"
#include "skipped.hpp"

#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace smartio;
using vfio::user::kill_peer;

namespace {

/// A child of this process that does `work`, then lives until it is told to end.
class Child {
public:
  template <class Work> explicit Child(Work work) {
    int down[2], up[2];
    REQUIRE((::pipe(down) == 0 && ::pipe(up) == 0));
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(down[1]);
      work();
      char byte = 'x';
      while (::write(up[1], &byte, 1) == 1 && ::read(down[0], &byte, 1) == 1) {}
      ::_exit(0);
    }
    ::close(down[0]);
    ::close(up[1]);
    to_ = Fd(down[1]);
    from_ = Fd(up[0]);
    REQUIRE(answers());
  }
  ~Child() { end(); }

  ::pid_t pid() const { return pid_; }
  /// Whether it lives and answers; it has done its work then.
  bool answers() {
    char byte = 'x';
    const bool answered = ::read(from_.get(), &byte, 1) == 1;
    return answered;
  }
  bool lives() {
    const char byte = 'x';
    return ::write(to_.get(), &byte, 1) == 1 && answers();
  }
  void end() {
    to_.reset();
    if (pid_ > 0) ::waitpid(std::exchange(pid_, 0), &status, 0);
  }
  int status = 0;

private:
  ::pid_t pid_ = 0;
  Fd to_, from_;
};

struct Meeting {
  Fd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)}, theirs{::socket(AF_UNIX, SOCK_STREAM, 0)};
  sockaddr_un address{};
  ::socklen_t size = sizeof address;

  Meeting() {
    ::signal(SIGPIPE, SIG_IGN);
    address.sun_family = AF_UNIX; // and a name that the kernel chooses
    REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family) == 0);
    REQUIRE(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    REQUIRE(::listen(listener.get(), 1) == 0);
  }
  /// Makes the connection, in a child: who the peer is, is decided here, and not by who has the descriptor.
  void meet() const { ::connect(theirs.get(), reinterpret_cast<const sockaddr*>(&address), size); }
  Fd ours() const { return Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)); }
};

/// A process of that number, if the kernel lets it be chosen.
template <class Work> std::unique_ptr<Child> child_of(::pid_t pid, Work work) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    std::ofstream("/proc/sys/kernel/ns_last_pid") << pid - 1 << std::flush;
    auto child = std::make_unique<Child>(work);
    if (child->pid() == pid) return child;
  }
  return nullptr;
}

} // namespace

TEST_CASE("who connected is killed") {
  const Meeting meeting;
  Child child([&meeting] { meeting.meet(); });
  kill_peer(meeting.ours().get());
  CHECK_FALSE(child.lives());
  child.end();
  CHECK(WTERMSIG(child.status) == SIGKILL);
}

TEST_CASE("a process that has the number of one that has ended is not killed for it") {
  const bool asks_socket = GENERATE(true, false);
  const Meeting meeting;
  ::pid_t pid = 0;
  {
    Child child([&meeting] { meeting.meet(); });
    pid = child.pid();
  }
  const Fd ours = meeting.ours();
  const auto innocent = child_of(pid, [] {});
  if (!innocent) SKIPPED("this kernel lets nobody choose a process's number");
  kill_peer(ours.get(), asks_socket);
  CHECK(innocent->lives());
}

TEST_CASE("where the kernel cannot say who connected, whoever holds no VFIO device lives") {
  const Meeting meeting;
  Child child([&meeting] { meeting.meet(); });
  kill_peer(meeting.ours().get(), false);
  CHECK(child.lives());
}

TEST_CASE("where the kernel cannot say who connected, it is killed if it has a VFIO device open or mapped") {
  const bool mapped = GENERATE(false, true);
  test::OwnMounts mounts;
  if (!mounts.hide("/dev") || ::mkdir("/dev/vfio", 0700) != 0) SKIPPED("only root can have mounts of its own");
  const Meeting meeting;
  Child child([&meeting, mapped] {
    const int device = ::open("/dev/vfio/device", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (mapped) ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, device, 0);
    if (mapped) ::close(device);
    meeting.meet();
  });
  kill_peer(meeting.ours().get(), false);
  CHECK_FALSE(child.lives());
}
