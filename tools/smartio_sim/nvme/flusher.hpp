// Brings what was written to the medium (fdatasync) on a thread of its own: that may take longer than a client waits
// for the answer to a message. The thread touches nothing but the file; who waits looks at a result.
#pragma once

#include "store.hpp"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace smartio::sim::nvme {

/// One run of fdatasync: pending until it is done, then 0 or an errno.
class FlushResult {
public:
  static constexpr int pending = -1;
  int get() const noexcept { return value_.load(std::memory_order_acquire); }
  bool done() const noexcept { return get() != pending; }

private:
  friend class Flusher;
  std::atomic<int> value_{pending};
};

class Flusher {
public:
  /// `finished` is called on the other thread after each run; it may do no more than wake the event loop.
  explicit Flusher(
      std::shared_ptr<Store> store, std::function<void()> finished = [] {});
  Flusher(const Flusher&) = delete;
  ~Flusher(); ///< waits for the run under way

  /// Asks for all that has been written up to now; does not block. Those who ask before a run has begun share it.
  std::shared_ptr<const FlushResult> start();

  /// The medium has lost data that was written (`error`: EIO and the like): no flush succeeds any more. A failed flush
  /// does so by itself, because the kernel tells of it once and takes the pages for written then: nobody can say later
  /// which data it was, and a flush that succeeded would promise all of it.
  void lost(int error) noexcept { lost_.store(error, std::memory_order_release); }

private:
  void run();
  int flush();

  std::shared_ptr<Store> store_;
  std::function<void()> finished_;
  std::atomic<int> lost_{0};
  std::mutex mutex_;
  std::condition_variable asked_;
  std::shared_ptr<FlushResult> next_; ///< guarded by mutex_
  bool stopping_ = false;             ///< guarded by mutex_
  std::thread thread_;                // last: it uses all the others
};

} // namespace smartio::sim::nvme
