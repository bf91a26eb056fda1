#include "listen.hpp"

#include "result.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace smartio::vfio::user {
namespace {

constexpr int backlog = 64;
constexpr std::chrono::milliseconds lock_time{1000}, lock_pause{1};

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos)
    return fail(Errc::bad_request, "Socket path \"{}\" is empty or longer than {} characters.", path,
                sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int attempt(int (*call)(int, const sockaddr*, socklen_t), int socket, const sockaddr_un& address) {
  const auto result = call(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  return result == 0 ? 0 : errno;
}

Result<Fd> make_socket() {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno(errno, "socket AF_UNIX");
  // bind gives the file this mode; changing it afterwards would be too late.
  if (::fchmod(socket.get(), 0600) != 0) return fail_errno(errno, "set the mode of a socket");
  return socket;
}

/// Of several servers that find the same stale socket only one may replace it.
Result<Fd> lock_folder_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  const auto folder = parent.empty() ? std::string(1, '.') : parent.string();
  Fd lock(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock) return fail_errno(errno, fmt::format("open {}", folder));
  for (auto left = lock_time; left.count() > 0; left -= lock_pause) {
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    std::this_thread::sleep_for(lock_pause);
  }
  return fail(Errc::busy, "Another server is just starting in {}.", folder);
}

/// Removes a socket that nobody listens on.
Result<void> remove_stale(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(errno, fmt::format("stat {}", path));
  }
  if (!S_ISSOCK(status.st_mode)) return fail(Errc::bad_request, "{} exists and is not a socket.", path);
  const auto probe = TRY(make_socket());
  const int error = attempt(::connect, probe.get(), address);
  if (error == 0 || error == EAGAIN) return fail(Errc::busy, "A server is listening on {}.", path);
  if (error != ECONNREFUSED) return fail_errno(error, fmt::format("connect to {}", path));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, fmt::format("remove {}", path));
  return {};
}

} // namespace

Result<ListeningPath> ListeningPath::listen(const std::string& path) {
  const auto address = TRY(address_of(path));
  auto socket = TRY(make_socket());
  const auto lock = TRY(lock_folder_of(path));
  TRY(remove_stale(path, address));
  if (const int error = attempt(::bind, socket.get(), address); error != 0)
    return fail_errno(error, fmt::format("bind {}", path));
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return fail_errno(errno, fmt::format("stat {}", path));
  ListeningPath listening(std::move(socket), path, status.st_dev, status.st_ino);
  if (::listen(listening.socket_.get(), backlog) != 0) return fail_errno(errno, fmt::format("listen on {}", path));
  return listening;
}

ListeningPath::~ListeningPath() {
  struct stat status {};
  if (path_.empty() || ::lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

} // namespace smartio::vfio::user
