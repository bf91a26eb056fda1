#include "event_queue.hpp"

#include <smartio/events.hpp>

namespace smartio {
namespace detail {

namespace {
std::uint64_t number_of(const core::Json& event) { return core::get_number(event, "seq").value_or(0); }
} // namespace

void EventQueue::start(core::Json status) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  known_ = number_of(status);
  std::erase_if(events_, [this](const auto& entry) { return number_of(entry.json) <= known_; });
  events_.push_front({"snapshot", std::move(status)});
  show();
}

void EventQueue::push(core::Json event) {
  const std::lock_guard lock(mutex_);
  if (ended_ || number_of(event) <= known_) return;
  auto kind = core::get_string(event, "event").value_or("");
  if (events_.size() < most)
    events_.push_back({std::move(kind), std::move(event)});
  else
    ended_ = Error{make_error_code(Errc::no_window), "events were lost: more came than were fetched"};
  show();
}

void EventQueue::end(Error why) {
  const std::lock_guard lock(mutex_);
  if (!ended_) ended_ = std::move(why);
  show();
}

void EventQueue::show() { signal_eventfd(event_.get()); }

Result<std::optional<EventQueue::Entry>> EventQueue::next() {
  const std::lock_guard lock(mutex_);
  if (events_.empty() && ended_) return std::unexpected(*ended_);
  drain_eventfd(event_.get());
  if (events_.empty()) return std::nullopt;
  std::optional event(std::move(events_.front()));
  events_.pop_front();
  if (!events_.empty() || ended_) show();
  return event;
}

} // namespace detail

inline namespace v0 {

Events::Events() noexcept = default;
Events::Events(std::unique_ptr<detail::EventSource> source) noexcept : source_(std::move(source)) {}
Events::Events(Events&&) noexcept = default;
Events& Events::operator=(Events&&) noexcept = default;
Events::~Events() = default;

int Events::fd() const noexcept { return source_->queue->fd(); }

Result<std::optional<Event>> Events::next() {
  const auto next = source_->queue->next();
  if (!next) return std::unexpected(next.error());
  if (!*next) return std::nullopt;
  const auto& [kind, json] = **next;
  Event event{.kind = kind, .json = json.dump(-1, ' ', false, core::Json::error_handler_t::replace)};
  if (const auto device = core::get_device(json, "device")) event.device = *device;
  return event;
}

} // namespace v0
} // namespace smartio
