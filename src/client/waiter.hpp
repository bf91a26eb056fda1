// One result handed from the device's thread to a caller that waits for it.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

namespace smartio::detail {

/// `set` is called exactly once; `wait` returns its value. May be destroyed as soon as `wait` has returned.
template <class T> class Waiter {
public:
  void set(T value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    ready_.notify_one(); // under the lock: the waiter goes away once it has the value
  }
  T wait() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return value_.has_value(); });
    return std::move(*value_);
  }

private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::optional<T> value_;
};

} // namespace smartio::detail
