// The state file, written beside the event loop: a disk that stalls holds up answers, but no heartbeat.
#pragma once

#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <smartio/error.hpp>
#include <string>
#include <thread>

namespace smartio {

/// Everything is called on the event loop's thread.
class StateFile {
public:
  using Failed = std::function<void(const Error&)>;

  /// `io` must live as long as this. `failed` is called for each content that could not be written; the file then has
  /// an earlier one.
  StateFile(boost::asio::io_context& io, std::string path, Failed failed);
  ~StateFile(); ///< waits until the newest content is on the disk, or cannot be brought there; calls nothing back

  /// Blocks until the newest content is on the disk, or cannot be brought there; then whoever waits runs. Nothing is
  /// saved any more.
  void finish();

  /// The file's new content. Of several while the disk is busy only the newest is written.
  void save(std::string content);

  /// Runs `done` once every content given so far, or a newer one, is on the disk, or could not be brought there: at
  /// once if that is so already.
  void when_saved(std::move_only_function<void()> done);

private:
  void write();
  void written(std::uint64_t number, const Result<void>& result);
  void end();

  struct Waiting {
    std::uint64_t number;
    std::move_only_function<void()> done;
  };
  boost::asio::io_context& io_;
  std::string path_;
  Failed failed_;
  std::uint64_t given_ = 0, saved_ = 0; ///< how many contents
  std::deque<Waiting> waiting_;
  std::mutex mutex_; ///< of all below but the thread
  std::condition_variable wanted_;
  std::optional<std::string> next_;
  std::uint64_t next_number_ = 0;
  bool ending_ = false;
  Result<void> last_{}; ///< of the thread when it ends
  std::thread thread_;
};

} // namespace smartio
