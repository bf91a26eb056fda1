// A process that connects to a UNIX socket as some user, and stays until the test is over; the test speaks for it. For
// servers that look at who has connected: SO_PEERCRED names whoever called connect().
#pragma once

#include "catch.hpp"
#include "fd.hpp"

#include <csignal>
#include <cstring>
#include <grp.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::test {

class ClientProcess {
public:
  ClientProcess(const std::string& path, ::uid_t uid, ::gid_t gid)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const Fd its_end(ends[1]);
    talk_ = Fd(ends[0]);
    pid_ = ::fork();
    if (pid_ == 0) connect_and_stay(path, uid, gid, its_end.get());
    REQUIRE(pid_ > 0);
    REQUIRE(::read(talk_.get(), &error_, sizeof error_) == sizeof error_);
  }
  ClientProcess(const ClientProcess&) = delete;
  ClientProcess& operator=(const ClientProcess&) = delete;
  ~ClientProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  int error() const { return error_; } ///< why it could not connect, or 0
  ::pid_t pid() const { return pid_; }
  const Fd& socket() const { return socket_; }
  /// It answers; not so once somebody has sent it a deadly signal.
  bool lives() const {
    int answer = 0;
    return ::send(talk_.get(), &answer, sizeof answer, MSG_NOSIGNAL) == sizeof answer &&
           ::read(talk_.get(), &answer, sizeof answer) == sizeof answer;
  }

private:
  [[noreturn]] void connect_and_stay(const std::string& path, ::uid_t uid, ::gid_t gid, int talk) const {
    ::sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    const bool right =
        ::setgroups(0, nullptr) == 0 && ::setresgid(gid, gid, gid) == 0 && ::setresuid(uid, uid, uid) == 0;
    const bool there =
        right && ::connect(socket_.get(), reinterpret_cast<const ::sockaddr*>(&address), sizeof address) == 0;
    const int error = there ? 0 : errno;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL); // after the change of users, which clears it
    for (int heard = 0; ::write(talk, &error, sizeof error) == sizeof error;)
      if (::read(talk, &heard, sizeof heard) != sizeof heard) break;
    ::_exit(0);
  }

  Fd socket_, talk_;
  ::pid_t pid_ = 0;
  int error_ = 0;
};

} // namespace smartio::test
