#include "lspci.hpp"

#include "bdf.hpp"
#include "fd.hpp"
#include "file.hpp"
#include "host/lspci.hpp"
#include "output.hpp"
#include "result.hpp"
#include "text.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace smartio::tool {
namespace {

std::vector<std::byte> bytes_of(std::string_view hex) {
  std::vector<std::byte> bytes;
  for (; hex.size() >= 2; hex.remove_prefix(2))
    bytes.push_back(static_cast<std::byte>(parse_number(hex.substr(0, 2), 16).value_or(0xff)));
  return bytes;
}

/// Starts lspci with standard output on `output`, its messages on `messages`, and the file as descriptor 3.
Result<::pid_t> start(int file, int output, int messages, const std::vector<std::string>& options) {
  std::vector<std::string> words{"lspci", "-F", "/proc/self/fd/3"};
  words.insert(words.end(), options.begin(), options.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, messages, STDERR_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, file, 3);
  ::posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigdefault(&attributes, &ignored_for_output());
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  ::pid_t child = 0;
  const int error = ::posix_spawnp(&child, "lspci", &actions, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return fail_errno(error, "start lspci, of the package pciutils");
  return child;
}

} // namespace

Result<std::string> render(const std::string& address, const std::string& hex,
                           const std::vector<std::string>& options) {
  // Above 3, so that making the child's descriptor 3 of one does not overwrite the other.
  const auto above = [](int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 10)); };
  const Fd file(::memfd_create("lspci", MFD_CLOEXEC)), messages(::memfd_create("messages", MFD_CLOEXEC));
  std::array<int, 2> ends{-1, -1};
  if (!file || !messages || ::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "make a file for lspci");
  Fd reader(ends[0]);
  Fd writer(ends[1]);
  const auto dump = vfio::host::hexdump(parse_bdf(address).value_or(Bdf{}), "device", bytes_of(hex));
  TRY(write_all(file.get(), std::as_bytes(std::span(dump)), "a file for lspci"));
  const Fd high_file = above(file.get()), high_messages = above(messages.get());
  Fd high_writer = above(writer.get());
  const auto child = TRY(start(high_file.get(), high_writer.get(), high_messages.get(), options));
  writer.reset();
  high_writer.reset();
  auto text = read_all(reader.get(), "what lspci prints");
  reader.reset(); // who still writes is told
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!text || status == 0) return text;
  ::lseek(messages.get(), 0, SEEK_SET);
  const std::string why = TRY(read_all(messages.get(), "what lspci says"));
  return fail(Errc::bad_request, "lspci failed: {}", why.substr(0, why.find('\n')));
}

} // namespace smartio::tool
