// Owning file descriptors. Raw `int` descriptors elsewhere are always borrowed.
#pragma once

#include <smartio/error.hpp>

#include <cstddef>
#include <cstdint>
#include <sys/socket.h>
#include <utility>

namespace smartio {

/// Owns one descriptor, or none (-1).
class Fd {
public:
  Fd() noexcept = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~Fd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept;

  Result<Fd> duplicate() const; ///< close-on-exec

private:
  int fd_ = -1;
};

Result<Fd> duplicate(int fd); ///< close-on-exec

/// A zero-filled memory file of `bytes`, sealed against shrinking; `name` shows in /proc. 2 MiB pages with
/// `huge_pages`.
Result<Fd> make_memfd(const char* name, std::size_t bytes, bool huge_pages = false);

Result<Fd> make_eventfd();                    ///< non-blocking, counter 0
void signal_eventfd(int fd) noexcept;         ///< adds 1; never blocks (O_NONBLOCK or not); a full counter stays full
std::uint64_t drain_eventfd(int fd) noexcept; ///< the counter, which becomes 0; never blocks either

/// Who was at the other end of a connected Unix socket when it connected or listened (SO_PEERCRED, unix(7)); process 0
/// and no user or group that there is, if that cannot be told.
::ucred peer_of(int socket) noexcept;
bool is_ours(int socket) noexcept; ///< whether that was root, or this process's user

} // namespace smartio
