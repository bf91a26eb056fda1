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

/// A line with everything, and a line for each change since (core/intent.hpp): a change costs as much as it is long,
/// however much there is. Written anew as a whole at the first change, when the changes are longer than the whole, and
/// after the disk has failed. Everything is called on the event loop's thread.
class StateFile {
public:
  using Whole = std::function<std::string()>;
  using Failed = std::function<void(const Error&)>;

  /// `io` must live as long as this. `whole` gives the line with everything as it is now, also from the destructor.
  /// `failed` is called when that could not be written either; the file then has what it had before.
  StateFile(boost::asio::io_context& io, std::string path, Whole whole, Failed failed);
  ~StateFile(); ///< waits until everything is on the disk, or cannot be brought there; calls nothing back

  /// Blocks until everything is on the disk, or cannot be brought there; then whoever waits runs. Nothing is saved any
  /// more.
  void finish();

  /// Something has changed: a line, or "" to have the file written. Changes that meet a busy disk are written together.
  void save(const std::string& line);

  /// Runs `done` once every change so far is on the disk, or could not be brought there: at once if that is so already.
  void when_saved(std::move_only_function<void()> done);

private:
  struct Content {
    bool whole;
    std::string text;
    std::uint64_t number; ///< of the last change in it
  };
  void put_whole();
  void write();
  void written(std::uint64_t number, bool whole, const Result<void>& result);
  void end();

  struct Waiting {
    std::uint64_t number;
    std::move_only_function<void()> done;
  };
  boost::asio::io_context& io_;
  std::string path_;
  Whole whole_;
  Failed failed_;
  std::uint64_t given_ = 0, saved_ = 0;       ///< how many changes
  std::size_t whole_bytes_ = 0, changed_ = 0; ///< of the last whole, and of the changes since
  std::deque<Waiting> waiting_;
  std::mutex mutex_; ///< of all below but the thread
  std::condition_variable wanted_;
  std::optional<Content> next_;
  bool broken_ = false, ending_ = false; ///< the former: what the file ends with is not known
  Result<void> last_{};                  ///< of the thread when it ends
  std::thread thread_;
};

} // namespace smartio
