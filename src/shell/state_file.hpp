// The state file, written beside the event loop: a disk that stalls holds up answers, but no heartbeat.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
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
  using Told = std::function<void(const Result<void>&)>;

  /// `io` must live as long as this. `whole` gives the line with everything as it is now, also from the destructor.
  /// `told` is called when that cannot be written any more, before whoever waits runs, or for another reason than
  /// before, and when it could be again. In between the file has what it had before, and is tried each second.
  StateFile(boost::asio::io_context& io, std::string path, Whole whole, Told told);
  ~StateFile(); ///< waits until everything is on the disk, or cannot be brought there; calls nothing back

  /// Blocks until everything is on the disk, or cannot be brought there; then whoever waits runs. Nothing is saved any
  /// more.
  void finish();

  /// Something has changed: a line, or "" to have the file written. Changes that meet a busy disk are written together.
  void save(const std::string& line);

  /// Runs `done` once every change so far is on the disk, or could not be brought there: at once if that is so already.
  void when_saved(std::move_only_function<void()> done);

  std::uint64_t changes() const { return given_; }                 ///< so far
  const std::optional<Error>& unsaved() const { return unsaved_; } ///< why the file has not all of them

private:
  struct Content {
    bool whole;
    std::string text;
    std::uint64_t number; ///< of the last change in it
  };
  void put_whole();
  void write();
  void written(std::uint64_t number, bool whole, const Result<void>& result);
  void outcome(const Result<void>& result);
  void end();

  struct Waiting {
    std::uint64_t number;
    std::move_only_function<void()> done;
  };
  boost::asio::io_context& io_;
  std::string path_;
  Whole whole_;
  Told told_;
  std::optional<Error> unsaved_;
  boost::asio::steady_timer retry_;
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
