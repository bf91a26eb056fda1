#include "state_file.hpp"

#include "file.hpp"

#include <boost/asio/post.hpp>

namespace smartio {

StateFile::StateFile(boost::asio::io_context& io, std::string path, Failed failed)
    : io_(io), path_(std::move(path)), failed_(std::move(failed)), thread_([this] { write(); }) {}

StateFile::~StateFile() { end(); }

void StateFile::end() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wanted_.notify_one();
  thread_.join();
}

void StateFile::finish() {
  if (!thread_.joinable()) return;
  end();
  written(given_, last_);
}

void StateFile::save(std::string content) {
  if (!thread_.joinable()) return;
  const auto number = ++given_;
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(content);
    next_number_ = number;
  }
  wanted_.notify_one();
}

void StateFile::when_saved(std::move_only_function<void()> done) {
  if (saved_ == given_ && waiting_.empty()) return done();
  waiting_.push_back({given_, std::move(done)});
}

/// The thread: one content after the other, the last also after the end was asked for.
void StateFile::write() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [this] { return next_ || ending_; });
    if (!next_) return;
    const auto content = *std::exchange(next_, std::nullopt);
    const auto number = next_number_;
    lock.unlock();
    auto result = replace_file(path_, content);
    lock.lock();
    last_ = result;
    if (!ending_) boost::asio::post(io_, [this, number, result = std::move(result)] { written(number, result); });
  }
}

void StateFile::written(std::uint64_t number, const Result<void>& result) {
  if (number <= saved_) return;
  if (!result) failed_(result.error());
  saved_ = number;
  while (!waiting_.empty() && waiting_.front().number <= saved_) {
    auto done = std::move(waiting_.front().done);
    waiting_.pop_front();
    done();
  }
}

} // namespace smartio
