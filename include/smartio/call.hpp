// Calls that return at once, for programs whose only thread must not wait.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace smartio {
inline namespace v0 {

/// A thread of the library that calls one function; programs use Call, which is made of it.
class Background {
public:
  /// Calls `work`, which must not throw, then destroys it; after that it is ready. Fails with the errno of eventfd or
  /// pthread_create.
  static Result<std::shared_ptr<Background>> start(std::move_only_function<void()> work);
  virtual ~Background() = default;
  virtual int fd() const noexcept = 0;
  virtual bool ready() const noexcept = 0;
  virtual void wait() const noexcept = 0;
};

/// What async() began. One that is destroyed before it is ready goes on, and what it gives is destroyed on its thread:
/// a device that was borrowed goes back. Nothing tells when that has ended: a program that is about to end waits for
/// get() instead. For one thread at a time.
template <class T> class Call {
public:
  Call() = default;
  explicit operator bool() const noexcept { return thread_ != nullptr; } ///< not empty; get() empties it

  int fd() const noexcept { return thread_->fd(); }        ///< borrowed; readable once ready
  bool ready() const noexcept { return thread_->ready(); } ///< get() does not block

  /// What the function returned; blocks until it has. What it threw, if it did. Once: the call is empty afterwards.
  T get() {
    const auto thread = std::exchange(thread_, nullptr);
    const auto outcome = std::exchange(outcome_, nullptr);
    thread->wait();
    if (outcome->thrown) std::rethrow_exception(outcome->thrown);
    return std::move(*outcome->value);
  }

private:
  struct Outcome {
    std::optional<T> value{};
    std::exception_ptr thrown{};
  };
  template <class Function> friend Result<Call<std::invoke_result_t<Function>>> async(Function function);
  std::shared_ptr<Background> thread_;
  std::shared_ptr<Outcome> outcome_;
};

/// Calls `function` on a thread of its own and returns at once: `async([node, id] { return node.borrow(id); })`. Until
/// the call is ready no other thread may use the objects that it uses, copies of a Node excepted. Not for functions
/// that return nothing. Fails as Background::start.
template <class Function> Result<Call<std::invoke_result_t<Function>>> async(Function function) {
  using T = std::invoke_result_t<Function>;
  auto outcome = std::make_shared<typename Call<T>::Outcome>();
  auto thread = Background::start([outcome, function = std::move(function)]() mutable {
#if __cpp_exceptions
    try {
      outcome->value.emplace(function());
    } catch (...) {
      outcome->thrown = std::current_exception();
    }
#else
    outcome->value.emplace(function());
#endif
  });
  if (!thread) return std::unexpected(std::move(thread).error());
  Call<T> call;
  call.thread_ = std::move(*thread);
  call.outcome_ = std::move(outcome);
  return call;
}

} // namespace v0
} // namespace smartio

#endif
