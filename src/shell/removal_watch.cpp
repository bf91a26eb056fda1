#include "removal_watch.hpp"

#include <array>
#include <filesystem>
#include <sys/inotify.h>
#include <unistd.h>

namespace smartio {
namespace {
// inotify(7). IN_MOVE_SELF: the directory itself.
constexpr std::uint32_t watched = IN_DELETE | IN_MOVED_FROM | IN_MOVE_SELF | IN_ONLYDIR;
constexpr std::uint32_t of_all = IN_Q_OVERFLOW | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT; ///< name no file
} // namespace

Result<std::unique_ptr<RemovalWatch>> RemovalWatch::open(boost::asio::io_context& io, const std::string& path,
                                                         std::function<void()> removed) {
  const std::filesystem::path file(path);
  Fd events(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!events) return fail_errno(errno, "watch " + path);
  if (::inotify_add_watch(events.get(), file.parent_path().c_str(), watched) < 0)
    return fail_errno(errno, "watch " + path);
  std::unique_ptr<RemovalWatch> watch(new RemovalWatch(io, file.filename(), std::move(removed)));
  boost::system::error_code error;
  watch->events_.assign(events.get(), error);
  if (error) return fail_errno(error.value(), "watch " + path);
  static_cast<void>(events.release());
  watch->wait();
  return watch;
}

void RemovalWatch::wait() {
  events_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code error) {
    if (error) return;
    const bool gone = read_all();
    wait();
    if (gone) removed_();
  });
}

bool RemovalWatch::read_all() {
  alignas(::inotify_event) std::array<char, 4096> buffer;
  bool gone = false;
  for (;;) {
    const auto got = ::read(events_.native_handle(), buffer.data(), buffer.size());
    if (got <= 0) return gone;
    for (const char* at = buffer.data(); at < buffer.data() + got;) {
      const auto& event = *reinterpret_cast<const ::inotify_event*>(at);
      gone = gone || (event.mask & of_all) != 0 || (event.len != 0 && name_ == event.name);
      at += sizeof event + event.len;
    }
  }
}

} // namespace smartio
