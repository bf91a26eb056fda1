// A listening socket in the file system, with the care that its path needs. Private to this folder.
#pragma once

#include "fd.hpp"

#include <string>
#include <sys/types.h>

namespace smartio::vfio::user {

/// Listens on a path; removes it at the end if it is still the same socket.
class ListeningPath {
public:
  /// Mode 0600, non-blocking. A socket that nobody listens on any more is replaced. Errc::busy: somebody listens there,
  /// or is just starting to (waited for, at most 1 s). Errc::bad_request: something else is there, or the path is empty
  /// or too long for a socket.
  static Result<ListeningPath> listen(const std::string& path);

  ListeningPath(ListeningPath&&) noexcept = default;
  ~ListeningPath();
  Fd take_socket() noexcept { return std::move(socket_); }

private:
  ListeningPath(Fd socket, std::string path, ::dev_t device, ::ino_t inode)
      : socket_(std::move(socket)), path_(std::move(path)), device_(device), inode_(inode) {}
  Fd socket_;
  std::string path_; ///< empty when moved from
  ::dev_t device_;
  ::ino_t inode_;
};

} // namespace smartio::vfio::user
