// Files that survive a crash: what is on the disk when, and who may read it. This program's own fsync and rename stand
// in front of the C library's, note what they are asked, and fail when told to.
#include "catch.hpp"
#include "file.hpp"
#include "skipped.hpp"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace smartio;

namespace {

std::vector<std::string> calls;
std::string failing;                ///< the call that gives EIO
std::function<void()> before_flock; ///< the next one

std::string path_of(int fd) {
  char target[PATH_MAX];
  const auto size = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
  return {target, static_cast<std::size_t>(size > 0 ? size : 0)};
}

int noted(std::string call) {
  calls.push_back(std::move(call));
  if (failing.empty() || !calls.back().starts_with(failing)) return 0;
  errno = EIO;
  return -1;
}

struct Scratch {
  std::string path;
  mode_t mask = ::umask(0); // whatever the modes are, they are ours
  Scratch() {
    char name[] = "/tmp/smartio-files-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = std::filesystem::canonical(name);
    calls.clear();
    failing.clear();
  }
  ~Scratch() {
    std::filesystem::remove_all(path);
    ::umask(mask);
  }
  std::string operator/(const char* name) const { return path + "/" + name; }
};

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

std::string text_of(const std::string& path) { return read_file(path).value().value_or("(none)"); }

} // namespace

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" // of the struct of that name
extern "C" int flock(int fd, int operation) {
  if (const auto first = std::exchange(before_flock, nullptr)) first();
  return static_cast<int>(::syscall(SYS_flock, fd, operation));
}
#pragma GCC diagnostic pop

extern "C" int fsync(int fd) {
  struct stat status {};
  ::fstat(fd, &status);
  const auto what = S_ISDIR(status.st_mode) ? "a directory" : std::to_string(status.st_size) + " bytes";
  if (noted("fsync " + path_of(fd) + ": " + what) != 0) return -1;
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  if (noted(std::string("rename ") + from + " " + to) != 0) return -1;
  return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

TEST_CASE(
    "a file is whole on the disk before it takes the old one's place, and that is on the disk before it is told") {
  const Scratch scratch;
  const auto file = scratch / "state.json";
  REQUIRE(replace_file(file, "old text"));
  calls.clear();
  REQUIRE(replace_file(file, "the new text"));
  CHECK(calls == std::vector<std::string>{"fsync " + file + ".new: 12 bytes", "rename " + file + ".new " + file,
                                          "fsync " + scratch.path + ": a directory"});
  CHECK(text_of(file) == "the new text");
}

TEST_CASE("a disk that fails is told of, and never costs the old text before the new one is there") {
  const Scratch scratch;
  const auto file = scratch / "state.json";
  REQUIRE(replace_file(file, "old"));
  struct Row {
    std::string call;
    const char* left;
  };
  for (const auto& [call, left] :
       {Row{"fsync " + file, "old"}, Row{"rename", "old"}, Row{"fsync " + scratch.path + ":", "new"}}) {
    failing = call;
    const auto done = replace_file(file, "new");
    failing.clear();
    INFO(call);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == std::error_code(EIO, std::system_category()));
    CHECK(text_of(file) == left);
  }
}

TEST_CASE("nobody else reads what is kept, whatever the umask and whatever a crash has left there") {
  const Scratch scratch;
  const auto file = scratch / "state.json";
  REQUIRE(replace_file(file, "text"));
  CHECK(mode_of(file) == 0600);
  std::filesystem::permissions(file, std::filesystem::perms(0644));
  const Fd left(::open((file + ".new").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
  REQUIRE(replace_file(file, "text"));
  CHECK(mode_of(file) == 0600);
}

TEST_CASE("a directory is its owner's alone, and one process's at a time") {
  const Scratch scratch;
  const auto folder = scratch / "run";
  auto first = own_directory(folder);
  REQUIRE(first);
  CHECK(mode_of(folder) == 0700);
  CHECK(mode_of(folder + "/lock") == 0600);
  const auto second = own_directory(folder);
  REQUIRE_FALSE(second);
  CHECK(second.error().code == make_error_code(Errc::busy));
  first->reset();
  CHECK(own_directory(folder));
  CHECK_FALSE(own_directory(scratch / "no/parent"));
}

TEST_CASE("a directory that somebody else can write to, or leads to, is not taken") {
  const Scratch scratch;
  const auto code = [](const std::string& path) {
    const auto taken = own_directory(path);
    return taken ? std::error_code() : taken.error().code;
  };
  const auto refused = make_error_code(Errc::not_permitted);
  const auto folder = scratch / "folder", link = scratch / "link";
  REQUIRE(::mkdir(folder.c_str(), 0700) == 0);
  for (const auto& [mode, group, is_refused] : {std::tuple{0777U, 0U, true},
                                                {0702U, 0U, true},
                                                {01777U, 0U, true},
                                                {0770U, 65534U, true},
                                                {0770U, 0U, false},
                                                {0755U, 65534U, false},
                                                {0711U, 0U, false}}) {
    CAPTURE(mode, group);
    REQUIRE(::chown(folder.c_str(), 0, group) == 0);
    REQUIRE(::chmod(folder.c_str(), mode) == 0);
    CHECK(code(folder) == (is_refused ? refused : std::error_code()));
  }
  REQUIRE(::symlink(folder.c_str(), link.c_str()) == 0);
  CHECK(code(link) == std::error_code());
  REQUIRE(::lchown(link.c_str(), 65534, 65534) == 0);
  CHECK(code(link) == refused);
  REQUIRE(::chown(folder.c_str(), 65534, 65534) == 0);
  CHECK(code(folder) == refused);
}

TEST_CASE("a file behind symbolic links is replaced where it is") {
  const Scratch scratch;
  const auto link = scratch / "link", real = scratch / "elsewhere/real";
  REQUIRE(::mkdir((scratch / "elsewhere").c_str(), 0700) == 0);
  REQUIRE(::symlink("elsewhere/second", link.c_str()) == 0);
  REQUIRE(::symlink("real", (scratch / "elsewhere/second").c_str()) == 0);
  REQUIRE(replace_file(link, "one\n")); // it need not be there yet
  REQUIRE(append_to_file(link, "two\n"));
  CHECK(text_of(real) == "one\ntwo\n");
  REQUIRE(replace_file(link, "three\n"));
  CHECK(text_of(real) == "three\n");
  CHECK(std::filesystem::is_symlink(link));

  REQUIRE(::symlink("round", (scratch / "round").c_str()) == 0);
  CHECK(replace_file(scratch / "round", "").error().code == std::error_code(ELOOP, std::system_category()));
  if (::geteuid() != 0) SKIPPED("only root can give a link to another user");
  REQUIRE(::lchown((scratch / "elsewhere/second").c_str(), 65534, 65534) == 0);
  const auto refused = make_error_code(Errc::not_permitted);
  CHECK(replace_file(link, "x").error().code == refused);
  CHECK(append_to_file(link, "x").error().code == refused);
  CHECK(read_own_file(link).error().code == refused);
  CHECK(text_of(real) == "three\n");
  REQUIRE(::chown(real.c_str(), 65534, 65534) == 0);
  CHECK(append_to_file(real, "x").error().code == refused);
  CHECK(replace_file(real, "x").error().code == refused);
  CHECK(read_own_file(real).error().code == refused);
}

TEST_CASE("a file that others may write to, or that is none, is neither read nor written") {
  const Scratch scratch;
  const auto path = scratch / "state.json", pipe = scratch / "pipe";
  REQUIRE(replace_file(path, "text"));
  REQUIRE(::chmod(path.c_str(), 0666) == 0);
  for (const auto& error :
       {replace_file(path, "x").error(), append_to_file(path, "x").error(), read_own_file(path).error()})
    CHECK(error.code == make_error_code(Errc::not_permitted));
  CHECK(text_of(path) == "text");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(read_own_file(pipe).error().code == make_error_code(Errc::bad_request));
  CHECK_FALSE(append_to_file(pipe, "x"));
}

TEST_CASE("who leaves a directory takes the lock along, and no two have it") {
  const Scratch scratch;
  const auto folder = scratch / "folder";
  auto first = own_directory(folder);
  REQUIRE(first);
  leave_directory(folder, std::move(*first));
  CHECK_FALSE(std::filesystem::exists(folder + "/lock"));
  before_flock = [&folder] { ::unlink((folder + "/lock").c_str()); }; // its owner leaves at this moment
  auto next = own_directory(folder);
  REQUIRE(next);
  CHECK(own_directory(folder).error().code == make_error_code(Errc::busy));

  std::filesystem::rename(folder, folder + ".moved");
  const auto anew = own_directory(folder);
  REQUIRE(anew);
  leave_directory(folder, std::move(*next)); // who does not know that it was moved
  CHECK(own_directory(folder).error().code == make_error_code(Errc::busy));
}

TEST_CASE("a lock that is a symbolic link is not followed") {
  const Scratch scratch;
  const auto folder = scratch / "folder";
  REQUIRE(::mkdir(folder.c_str(), 0700) == 0);
  REQUIRE(::symlink((scratch / "elsewhere").c_str(), (folder + "/lock").c_str()) == 0);
  CHECK_FALSE(own_directory(folder));
  CHECK_FALSE(std::filesystem::exists(scratch / "elsewhere"));
}

TEST_CASE("a file that is not there is no error, one that cannot be read is") {
  const Scratch scratch;
  CHECK_FALSE(read_file(scratch / "nothing").value().has_value());
  CHECK_FALSE(read_file(scratch.path).has_value());
  CHECK_FALSE(replace_file(scratch / "no/parent", "text").has_value());
}

TEST_CASE("a file larger than any that is kept here is not read whole") {
  char folder[] = "/tmp/smartio-files-XXXXXX";
  REQUIRE(::mkdtemp(folder) != nullptr);
  const auto path = std::string(folder) + "/large";
  const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  REQUIRE(::ftruncate(file.get(), (64 << 20) + 1) == 0);
  const auto read = read_file(path);
  CHECK((!read && read.error().code == std::error_code(EFBIG, std::system_category())));
  std::filesystem::remove_all(folder);
}
