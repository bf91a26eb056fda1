#include "fd.hpp"
#include "quiet_thread.hpp"

#include <atomic>
#include <smartio/call.hpp>

namespace smartio {
inline namespace v0 {
namespace {

struct Thread final : Background {
  struct State {
    Fd event;
    std::atomic<bool> ready = false;
  };
  ~Thread() override {
    if (!thread.joinable()) return;
    ready() ? thread.join() : thread.detach();
  }
  int fd() const noexcept override { return state->event.get(); }
  bool ready() const noexcept override { return state->ready.load(std::memory_order_acquire); }
  void wait() const noexcept override {
    if (thread.joinable()) thread.join();
  }

  const std::shared_ptr<State> state = std::make_shared<State>(); ///< the thread has it, too: it may live longer
  mutable std::thread thread;
};

} // namespace

Result<std::shared_ptr<Background>> Background::start(std::move_only_function<void()> work) {
  auto made = std::make_shared<Thread>();
  made->state->event = TRY(make_eventfd());
  made->thread = TRY(quiet_thread([state = made->state, work = std::move(work)]() mutable {
    work();
    work = nullptr; // what it holds goes before anybody hears of its end
    state->ready.store(true, std::memory_order_release);
    signal_eventfd(state->event.get());
  }));
  return made;
}

} // namespace v0
} // namespace smartio
