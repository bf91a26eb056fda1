// Events on their way to a program that fetches them.
#pragma once

#include "fd.hpp"
#include "json.hpp"

#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <smartio/error.hpp>

namespace smartio::detail {

/// Thread-safe. Its eventfd is readable while there is something to fetch, or the end to tell.
class EventQueue {
public:
  static constexpr std::size_t most = 4096; ///< not fetched yet

  explicit EventQueue(Fd event) noexcept : event_(std::move(event)) {}

  struct Entry {
    std::string kind;
    core::Json json;
  };
  /// The status of the node, which goes first, as the kind "snapshot": what happened before it is left out, whether it
  /// was pushed before or comes later.
  void start(core::Json status);
  void push(core::Json event); ///< one too many is the end
  void end(Error why);         ///< the first counts; told after what there is
  Result<std::optional<Entry>> next();
  int fd() const noexcept { return event_.get(); }

private:
  void show();

  const Fd event_;
  std::mutex mutex_; ///< of all below
  std::deque<Entry> events_;
  std::uint64_t known_ = 0; ///< the number of the latest event that the status knows
  std::optional<Error> ended_;
};

/// What a program's Events are made of.
struct EventSource {
  std::shared_ptr<EventQueue> queue;
  std::shared_ptr<void> reader; ///< what fills it; ends with this
};

} // namespace smartio::detail
