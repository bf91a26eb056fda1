#include "flusher.hpp"

#include <utility>

namespace smartio::sim::nvme {

Flusher::Flusher(std::shared_ptr<Store> store, std::function<void()> finished)
    : store_(std::move(store)), finished_(std::move(finished)), thread_([this] { run(); }) {}

Flusher::~Flusher() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_one();
  thread_.join();
}

std::shared_ptr<const FlushResult> Flusher::start() {
  std::shared_ptr<const FlushResult> result;
  {
    const std::lock_guard lock(mutex_);
    if (!next_) next_ = std::make_shared<FlushResult>();
    result = next_;
  }
  asked_.notify_one();
  return result;
}

int Flusher::flush() {
  if (const int error = lost_.load(std::memory_order_acquire); error != 0) return error;
  const int error = store_->flush();
  if (error != 0) lost(error);
  return error;
}

void Flusher::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [this] { return next_ || stopping_; });
    if (!next_) return;
    const auto current = std::exchange(next_, nullptr);
    lock.unlock();
    current->value_.store(flush(), std::memory_order_release);
    finished_();
    lock.lock();
  }
}

} // namespace smartio::sim::nvme
