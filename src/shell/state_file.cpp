#include "state_file.hpp"

#include "file.hpp"

#include <boost/asio/post.hpp>

namespace smartio {
namespace {
constexpr std::size_t fewest_changes = 64U << 10; ///< bytes, that make it worth writing the whole
constexpr std::chrono::seconds retry_after{1};
} // namespace

StateFile::StateFile(boost::asio::io_context& io, std::string path, Whole whole, Told told)
    : io_(io), path_(std::move(path)), whole_(std::move(whole)), told_(std::move(told)), retry_(io),
      thread_([this] { write(); }) {}

StateFile::~StateFile() { end(); }

void StateFile::end() {
  if (!thread_.joinable()) return;
  retry_.cancel();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wanted_.notify_one();
  thread_.join();
  if (std::exchange(broken_, false)) last_ = replace_file(path_, whole_()); // perhaps there is room again
}

void StateFile::finish() {
  if (!thread_.joinable()) return;
  end();
  written(given_, true, last_);
}

void StateFile::save(const std::string& line) {
  if (!thread_.joinable()) return;
  ++given_;
  const std::lock_guard lock(mutex_);
  if (whole_bytes_ == 0 || broken_ || changed_ > whole_bytes_ + fewest_changes) return put_whole();
  changed_ += line.size();
  if (next_)
    next_->text += line;
  else
    next_ = Content{false, line, 0};
  next_->number = given_;
  wanted_.notify_one();
}

/// With the mutex held.
void StateFile::put_whole() {
  next_ = Content{true, whole_(), given_};
  whole_bytes_ = next_->text.size();
  changed_ = 0;
  broken_ = false;
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
    lock.unlock();
    auto result = content.whole ? replace_file(path_, content.text) : append_to_file(path_, content.text);
    lock.lock();
    last_ = result;
    if (!result && !(next_ && next_->whole)) {
      broken_ = true; // no change may stand behind half of another
      next_.reset();
    }
    if (!ending_)
      boost::asio::post(io_, [this, number = content.number, whole = content.whole, result = std::move(result)] {
        written(number, whole, result);
      });
  }
}

/// Of writing the whole, or a change behind it.
void StateFile::outcome(const Result<void>& result) {
  const bool news = result ? unsaved_.has_value() : !unsaved_ || to_string(*unsaved_) != to_string(result.error());
  unsaved_ = result ? std::nullopt : std::optional(result.error());
  if (news) told_(result);
  if (result) return;
  retry_.expires_after(retry_after);
  retry_.async_wait([this](boost::system::error_code error) {
    if (error || !thread_.joinable()) return;
    const std::lock_guard lock(mutex_);
    if (broken_) put_whole();
  });
}

/// What cannot be appended may still fit into the place of what is there; whoever waits, waits for that.
void StateFile::written(std::uint64_t number, bool whole, const Result<void>& result) {
  if (result || whole) outcome(result);
  if (number <= saved_) return;
  if (!result && !whole) {
    const std::lock_guard lock(mutex_);
    if (broken_) put_whole(); // else it is on its way
    return;
  }
  saved_ = number;
  while (!waiting_.empty() && waiting_.front().number <= saved_) {
    auto done = std::move(waiting_.front().done);
    waiting_.pop_front();
    done();
  }
}

} // namespace smartio
