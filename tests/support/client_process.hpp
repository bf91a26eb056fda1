// A process that connects to a UNIX socket as some user, and stays until the test is over; the test speaks for it. For
// servers that look at who has connected: SO_PEERCRED names whoever called connect().
#pragma once

#include "catch.hpp"
#include "fd.hpp"

#include <csignal>
#include <cstring>
#include <grp.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::test {

class ClientProcess {
public:
  ClientProcess(const std::string& path, ::uid_t uid, ::gid_t gid)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    int pipe[2];
    REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
    const Fd result(pipe[0]);
    Fd told(pipe[1]);
    pid_ = ::fork();
    if (pid_ == 0) connect_and_stay(path, uid, gid, told.get());
    told.reset();
    REQUIRE(::read(result.get(), &error_, sizeof error_) == sizeof error_);
  }
  ClientProcess(const ClientProcess&) = delete;
  ClientProcess& operator=(const ClientProcess&) = delete;
  ~ClientProcess() {
    if (pid_ > 0 && !killed()) ::kill(pid_, SIGKILL);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  }

  int error() const { return error_; } ///< why it could not connect, or 0
  ::pid_t pid() const { return pid_; }
  const Fd& socket() const { return socket_; }
  /// Whether somebody has ended it.
  bool killed() {
    int status = 0;
    if (pid_ > 0 && ::waitpid(pid_, &status, WNOHANG) == pid_) pid_ = WIFSIGNALED(status) ? -WTERMSIG(status) : -1;
    return pid_ == -SIGKILL;
  }

private:
  [[noreturn]] void connect_and_stay(const std::string& path, ::uid_t uid, ::gid_t gid, int told) const {
    ::sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    const bool right =
        ::setgroups(0, nullptr) == 0 && ::setresgid(gid, gid, gid) == 0 && ::setresuid(uid, uid, uid) == 0;
    const bool there =
        right && ::connect(socket_.get(), reinterpret_cast<const ::sockaddr*>(&address), sizeof address) == 0;
    const int error = there ? 0 : errno;
    if (::write(told, &error, sizeof error) != sizeof error) ::_exit(1);
    while (true) ::pause();
  }

  Fd socket_;
  ::pid_t pid_ = 0;
  int error_ = 0;
};

} // namespace smartio::test
