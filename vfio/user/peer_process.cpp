#include "peer_process.hpp"

#include "../descriptors.hpp"

#include "fd.hpp"

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace smartio::vfio::user {
namespace {

constexpr int so_peerpidfd = 77; // SO_PEERPIDFD of Linux 6.5, include/uapi/asm-generic/socket.h

bool has_device_open(const std::string& process) {
  std::error_code error;
  std::filesystem::directory_iterator entry(process + "/fd", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    if (is_device_name(std::filesystem::read_symlink(entry->path(), error).string())) return true;
  return false;
}

/// A line of maps ends with a space and the name of the file.
bool has_device_mapped(const std::string& process) {
  std::ifstream maps(process + "/maps");
  for (std::string line; std::getline(maps, line);)
    if (const auto name = line.find_first_of("/["); name != line.npos)
      if (is_device_name(line.substr(line.rfind(' ', name) + 1))) return true;
  return false;
}

void kill_process(const Fd& process) { ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0); }

/// While the process behind the descriptor lives, what /proc has under its number is its own; once it has ended nobody
/// gets the signal.
void kill_holder(::pid_t pid) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const auto folder = "/proc/" + std::to_string(pid);
  if (process && (has_device_open(folder) || has_device_mapped(folder))) kill_process(process);
}

} // namespace

void kill_peer(int socket, bool asks_socket) {
  int fd = -1;
  ::socklen_t size = sizeof fd;
  if (asks_socket && ::getsockopt(socket, SOL_SOCKET, so_peerpidfd, &fd, &size) == 0) return kill_process(Fd(fd));
  if (asks_socket && errno != ENOPROTOOPT) return; // it has ended
  if (const auto process = peer_of(socket).pid; process > 0) kill_holder(process);
}

} // namespace smartio::vfio::user
