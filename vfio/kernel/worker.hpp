// A thread for the blocking calls of one device, and the reactor's view of it. The thread gets values and gives values;
// results arrive on the event loop, in order. A call that does not come back within its time is given up: the thread is
// never waited for, and ends by itself when the kernel lets it go.
#pragma once

#include "../device.hpp"
#include "progress.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <smartio/error.hpp>

namespace smartio::vfio::kernel {

/// Belongs to the event loop's thread.
class Worker final : public std::enable_shared_from_this<Worker> {
public:
  using Job = std::move_only_function<Result<Answer>(const Progress&)>; ///< runs on the thread
  using Done = std::move_only_function<void(Result<Answer>)>;
  using Ended = std::move_only_function<void()>;

  static constexpr std::size_t most_waiting = 4096; ///< jobs

  /// `patience` bounds each job from the time it is the next, or last made progress. `owner` is kept alive while a job
  /// is under way. `stuck` is called at most once, when time is up; what waits then is the caller's to end().
  static std::shared_ptr<Worker> start(boost::asio::io_context& io, std::chrono::milliseconds patience,
                                       std::weak_ptr<void> owner, Ended stuck);
  ~Worker(); ///< after end()

  /// `done` gets the job's result, later; ENOBUFS, at once, when too many wait.
  void run(Job job, Done done);

  /// Completes everything under way with `number` and drops what has not begun. `last`, after which the thread ends,
  /// follows the job that runs. Once.
  void end(int number, Job last);

  /// Calls `ended` later: when the last job is done, or has had its time. After end().
  void when_ended(Ended ended);

private:
  struct Queue;
  struct Call {
    std::uint64_t number;
    Done done;
  };
  Worker(boost::asio::io_context& io, std::chrono::milliseconds patience, std::weak_ptr<void> owner, Ended stuck);
  static void work(std::shared_ptr<Queue> queue, std::weak_ptr<Worker> worker);
  std::uint64_t push(Job job, bool last);
  void deliver(std::uint64_t number, Result<Answer> result);
  void progressed(std::uint64_t number);
  void arm();
  void time_is_up();
  void tell_ended();

  boost::asio::io_context& io_;
  boost::asio::steady_timer timer_;
  std::chrono::milliseconds patience_;
  std::weak_ptr<void> owner_;
  Ended stuck_;
  std::shared_ptr<Queue> queue_;
  std::deque<Call> calls_; ///< not answered yet, oldest first
  std::uint64_t numbers_ = 0;
  bool ending_ = false;
  std::vector<Ended> ended_;
};

} // namespace smartio::vfio::kernel
