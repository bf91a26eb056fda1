#include "file.hpp"

#include "output.hpp"
#include "result.hpp"

#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio {
namespace {

Result<void> write_and_sync(int fd, std::string_view text, const std::string& path) {
  TRY(write_all(fd, std::as_bytes(std::span(text)), path));
  if (::fsync(fd) != 0) return fail_errno(errno, "fsync " + path);
  return {};
}

/// Whoever may write to a directory could put a link or a socket in place of this process's own.
Result<void> check_own(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail_errno(errno, "look at " + path);
  if (status.st_uid != 0 && status.st_uid != ::geteuid())
    return fail(Errc::not_permitted, "{} belongs to another user ({})", path, status.st_uid);
  const bool group = (status.st_mode & S_IWGRP) != 0 && status.st_gid != 0 && status.st_gid != ::getegid();
  if (group || (status.st_mode & S_IWOTH) != 0)
    return fail(Errc::not_permitted, "{} can be written to by others", path);
  return {};
}

/// Whether it is a symbolic link, which is followed only if it is this user's, or root's.
Result<bool> is_link(const std::string& path) {
  struct stat link {};
  if (::lstat(path.c_str(), &link) != 0) return fail_errno(errno, "look at " + path);
  if (!S_ISLNK(link.st_mode)) return false;
  if (link.st_uid != 0 && link.st_uid != ::geteuid())
    return fail(Errc::not_permitted, "{} is a symbolic link of another user ({})", path, link.st_uid);
  return true;
}

/// Where the file is, or would be, that `path` names.
Result<std::string> behind_links(std::string path) {
  for (unsigned most = 16; most > 0; --most) {
    const auto link = is_link(path);
    if (!link && link.error().code == std::errc::no_such_file_or_directory) return path;
    if (!TRY(link)) return path;
    std::error_code error;
    const auto target = std::filesystem::read_symlink(path, error);
    if (error) return fail_errno(error.value(), "look at " + path);
    path = (std::filesystem::path(path).parent_path() / target).string();
  }
  return fail_errno(ELOOP, "open " + path);
}

/// Needs no right to read it.
Result<Fd> open_own(const std::string& path) {
  const bool link = TRY(is_link(path));
  Fd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | (link ? 0 : O_NOFOLLOW)));
  if (!directory) return fail_errno(errno, "open " + path);
  TRY(check_own(directory.get(), path));
  return directory;
}

/// What another user can change is nothing to go by, nor to write to.
Result<Fd> open_own_file(const std::string& path, int flags) {
  Fd fd(::open(path.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)); // a pipe would be waited for
  if (!fd) return fail_errno(errno, "open " + path);
  TRY(check_own(fd.get(), path));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, "look at " + path);
  if (!S_ISREG(status.st_mode)) return fail(Errc::bad_request, "{} is not a file", path);
  return fd;
}

bool is_same(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

} // namespace

Result<std::string> read_all(int fd, const std::string& path, std::size_t most) {
  std::string text;
  char piece[65536];
  for (;;) {
    const auto got = ::read(fd, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "read " + path);
    if (got == 0) return text;
    text.append(piece, static_cast<std::size_t>(got));
    if (text.size() > most) return fail_errno(EFBIG, "read " + path);
  }
}

Result<std::optional<std::string>> read_file(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::nullopt;
  if (!fd) return fail_errno(errno, "open " + path);
  return TRY(read_all(fd.get(), path));
}

Result<std::optional<std::string>> read_own_file(const std::string& name) {
  const auto path = TRY(behind_links(name));
  const auto fd = open_own_file(path, O_RDONLY);
  if (!fd && fd.error().code == std::errc::no_such_file_or_directory) return std::nullopt;
  if (!fd) return std::unexpected(fd.error());
  return TRY(read_all(fd->get(), path));
}

Result<void> replace_file(const std::string& name, const std::string& text) {
  const auto path = TRY(behind_links(name));
  if (const auto before = open_own_file(path, O_RDONLY);
      !before && before.error().code == make_error_code(Errc::not_permitted))
    return std::unexpected(before.error());
  const std::string fresh = path + ".new";
  {
    ::unlink(fresh.c_str()); // of a crash, or of somebody who would go on reading or writing it
    const Fd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return fail_errno(errno, "create " + fresh);
    TRY(write_and_sync(fd.get(), text, fresh));
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail_errno(errno, "replace " + path);
  const auto folder = path.substr(0, path.rfind('/') + 1);
  const Fd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0) return fail_errno(errno, "fsync " + folder);
  return {};
}

Result<void> append_to_file(const std::string& name, const std::string& text) {
  const auto path = TRY(behind_links(name));
  const auto fd = TRY(open_own_file(path, O_WRONLY | O_APPEND));
  return write_and_sync(fd.get(), text, path);
}

Result<Fd> own_directory(const std::string& directory, unsigned mode) {
  if (::mkdir(directory.c_str(), mode) != 0 && errno != EEXIST) return fail_errno(errno, "make directory " + directory);
  const auto path = directory + "/lock";
  const auto opened = TRY(open_own(directory));
  for (;;) {
    Fd lock(::openat(opened.get(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) return fail_errno(errno, "open " + path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return fail(Errc::busy, "{} is in use by another smartiod", directory);
      return fail_errno(errno, "lock " + path);
    }
    struct stat locked {
    }, there{};
    if (::fstat(lock.get(), &locked) != 0) return fail_errno(errno, "look at " + path);
    const bool there_is = ::fstatat(opened.get(), "lock", &there, AT_SYMLINK_NOFOLLOW) == 0;
    if (there_is && is_same(locked, there)) return lock; // else its owner has just left, and taken it along
  }
}

bool still_owns(const std::string& directory, const Fd& lock) {
  struct stat locked {
  }, there{};
  if (!lock || ::fstat(lock.get(), &locked) != 0) return false;
  return ::lstat((directory + "/lock").c_str(), &there) != 0 || is_same(locked, there);
}

void leave_directory(const std::string& directory, Fd lock) {
  if (still_owns(directory, lock)) ::unlink((directory + "/lock").c_str());
}

} // namespace smartio
