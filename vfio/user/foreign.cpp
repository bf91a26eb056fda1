#include "user/foreign.hpp"

#include "file.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <fcntl.h>
#include <fmt/format.h>
#include <mutex>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace smartio::vfio::user {
namespace {

/// On this host, and answered by its kernel alone.
constexpr std::array prompt{"bcachefs",  "btrfs",   "devtmpfs", "ext2",   "ext3",     "ext4",  "f2fs",
                            "hugetlbfs", "overlay", "ramfs",    "rootfs", "squashfs", "tmpfs", "xfs",
                            "zfs",       "proc",    "sysfs",    "devpts", "vfat"};

std::string link_of(int fd) {
  std::array<char, PATH_MAX> target{};
  const auto size = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target.data(), target.size());
  return {target.data(), size < 0 ? 0 : static_cast<std::size_t>(size)};
}

/// The value of a line "NAME:\tVALUE" of /proc/self/fdinfo/FD; the kernel writes it without asking the file system.
std::string field_of(int fd, std::string_view name) {
  const auto text = read_file(fmt::format("/proc/self/fdinfo/{}", fd));
  const auto begin = text && *text ? (*text)->find(fmt::format("{}:\t", name)) : std::string::npos;
  if (begin == std::string::npos) return {};
  const auto value = begin + name.size() + 2;
  return (*text)->substr(value, (*text)->find('\n', value) - value);
}

bool may_wait(int fd, Unknown unknown) {
  if (::fcntl(fd, F_GET_SEALS) >= 0) return false; // memfd, tmpfs, hugetlbfs
  const auto link = link_of(fd);
  if (link.starts_with("socket:")) return true;
  if (link.starts_with("anon_inode:") || link.starts_with("pipe:")) return false;
  if (!field_of(fd, "exp_name").empty()) return false; // a dma-buf: nothing else has that line
  const auto mounts = read_file("/proc/self/mountinfo");
  const auto type = mounts && *mounts ? mounted_type(**mounts, field_of(fd, "mnt_id")) : std::string_view();
  if (type.empty()) return unknown == Unknown::refused;
  return std::ranges::find(prompt, type) == prompt.end() || ::isatty(fd) != 0;
}

/// One after the other. What waits for ever holds up others of its kind only.
class Closer {
public:
  Closer() {
    ::sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread([this] { run(); }).detach();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  void take(Fd fd) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(fd));
    some_.notify_one();
  }

private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      some_.wait(lock, [this] { return !queue_.empty(); });
      const Fd next = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      const ::linger none{};
      ::setsockopt(next.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
    }
  }
  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<Fd> queue_;
};

Fd stand_in() {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return {};
  const Fd writer(ends[1]);
  return Fd(ends[0]);
}

} // namespace

std::string_view mounted_type(std::string_view mountinfo, std::string_view id) {
  while (!id.empty() && !mountinfo.empty()) {
    const auto line = mountinfo.substr(0, mountinfo.find('\n'));
    mountinfo.remove_prefix(std::min(mountinfo.size(), line.size() + 1));
    if (!line.starts_with(id) || line.substr(id.size()).substr(0, 1) != " ") continue;
    const auto end = line.find(" - "); // proc(5): after the optional fields; spaces in paths are escaped
    const auto type = end == line.npos ? std::string_view() : line.substr(end + 3);
    return type.substr(0, type.find(' '));
  }
  return {};
}

Fd harmless(Fd received, Unknown unknown) {
  if (!received || !may_wait(received.get(), unknown)) return received;
  static auto* closer = new Closer; // its thread may be waiting when the process ends
  closer->take(std::move(received));
  return stand_in();
}

} // namespace smartio::vfio::user
