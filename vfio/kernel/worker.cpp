#include "worker.hpp"

#include "result.hpp"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace smartio::vfio::kernel {

/// What the event loop and the thread share; the thread may outlive the Worker.
struct Worker::Queue {
  explicit Queue(boost::asio::io_context::executor_type executor) : loop(std::move(executor)) {}

  struct Entry {
    std::uint64_t number;
    Job job;
    bool last;
  };
  std::mutex mutex;
  std::condition_variable filled;
  std::deque<Entry> entries;
  bool ending = false; ///< only the last job is wanted
  bool heard = true;   ///< somebody waits for results, and so the event loop is still there
  bool finished = false;
  boost::asio::io_context::executor_type loop;
};

Worker::Worker(boost::asio::io_context& io, std::chrono::milliseconds patience, std::weak_ptr<void> owner, Ended stuck)
    : io_(io), timer_(io), patience_(patience), owner_(std::move(owner)), stuck_(std::move(stuck)),
      queue_(std::make_shared<Queue>(io.get_executor())) {}

std::shared_ptr<Worker> Worker::start(boost::asio::io_context& io, std::chrono::milliseconds patience,
                                      std::weak_ptr<void> owner, Ended stuck) {
  std::shared_ptr<Worker> worker(new Worker(io, patience, std::move(owner), std::move(stuck)));
  // Not joined by anybody: joining a thread that hangs in the kernel would hang the event loop.
  std::thread(work, worker->queue_, std::weak_ptr(worker)).detach();
  return worker;
}

void Worker::work(std::shared_ptr<Queue> queue, std::weak_ptr<Worker> worker) {
  for (bool last = false; !last;) {
    std::unique_lock lock(queue->mutex);
    queue->filled.wait(lock, [&queue] { return !queue->entries.empty(); });
    auto entry = std::move(queue->entries.front());
    queue->entries.pop_front();
    lock.unlock();
    last = entry.last;
    const Progress progress = [&queue, &worker, number = entry.number] {
      const std::scoped_lock told(queue->mutex);
      if (queue->heard)
        boost::asio::post(queue->loop, [worker, number] {
          if (const auto self = worker.lock()) self->progressed(number);
        });
      return !queue->ending;
    };
    auto result = entry.job(progress);
    entry.job = nullptr; // what it owns goes here, before anyone hears that it is done
    lock.lock();
    queue->finished = last;
    if (!queue->heard) continue;
    boost::asio::post(queue->loop, [worker, number = entry.number, result = std::move(result)]() mutable {
      if (const auto self = worker.lock()) self->deliver(number, std::move(result));
    });
  }
}

Worker::~Worker() {
  const std::scoped_lock lock(queue_->mutex);
  queue_->heard = false;
}

std::uint64_t Worker::push(Job job, bool last) {
  const auto number = ++numbers_;
  const std::scoped_lock lock(queue_->mutex);
  queue_->entries.push_back({number, std::move(job), last});
  queue_->filled.notify_one();
  return number;
}

void Worker::run(Job job, Done done) {
  if (calls_.size() >= most_waiting) return done(fail_errno(ENOBUFS, "too many requests wait for the device"));
  calls_.push_back({push(std::move(job), false), std::move(done)});
  if (calls_.size() == 1) arm();
}

void Worker::deliver(std::uint64_t number, Result<Answer> result) {
  if (calls_.empty() || calls_.front().number != number) return; // given up
  const auto self = shared_from_this();
  const auto owner = owner_.lock();
  auto call = std::move(calls_.front());
  calls_.pop_front();
  arm();
  if (call.done)
    call.done(std::move(result));
  else
    tell_ended();
}

void Worker::progressed(std::uint64_t number) {
  if (!calls_.empty() && calls_.front().number == number) arm();
}

/// Gives the oldest call its time.
void Worker::arm() {
  timer_.cancel();
  if (calls_.empty() || (ending_ && ended_.empty())) return;
  timer_.expires_after(patience_);
  timer_.async_wait([self = shared_from_this(), owner = owner_.lock()](boost::system::error_code error) {
    // A timer that had expired when it was stopped or armed anew comes here, too.
    const bool due = self->timer_.expiry() <= std::chrono::steady_clock::now();
    if (!error && due && !self->calls_.empty()) self->time_is_up();
  });
}

void Worker::time_is_up() {
  if (ending_) return tell_ended();
  if (stuck_) std::exchange(stuck_, nullptr)();
}

void Worker::tell_ended() {
  for (auto& ended : std::exchange(ended_, {})) ended();
}

void Worker::end(int number, Job last) {
  const auto self = shared_from_this();
  auto cancelled = std::exchange(calls_, {});
  ending_ = true;
  {
    const std::scoped_lock lock(queue_->mutex);
    queue_->entries.clear();
    queue_->ending = true;
    queue_->heard = false; // the event loop may go now, unless somebody asks for the end
  }
  calls_.push_back({push(std::move(last), true), nullptr});
  timer_.cancel();
  for (auto& call : cancelled) call.done(fail_errno(number, "the device was closed"));
}

void Worker::when_ended(Ended ended) {
  {
    const std::scoped_lock lock(queue_->mutex);
    queue_->heard = !queue_->finished;
  }
  if (!queue_->heard || calls_.empty()) return boost::asio::post(io_, std::move(ended));
  ended_.push_back(std::move(ended));
  arm();
}

} // namespace smartio::vfio::kernel
