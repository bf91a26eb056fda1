// A socket in a file system, as a server's.
#pragma once

#include "catch.hpp"
#include "fd.hpp"

#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace testing {

/// Bound to that path, instead of what is there; it does not listen.
inline smartio::Fd serve(const std::string& at) {
  ::unlink(at.c_str());
  smartio::Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  REQUIRE(at.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path, at.data(), at.size());
  REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  return socket;
}

} // namespace testing
