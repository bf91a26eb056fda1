// What happens at a node, one event after the other.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <memory>
#include <optional>
#include <string>

namespace smartio::detail {
struct EventSource;
}

namespace smartio {
inline namespace v0 {

struct Event {
  std::string kind;                 ///< "device-added", ...: as tools/schema/event.json lists them; more may come
  std::optional<DeviceId> device{}; ///< that it is about, where it is about one
  std::string json;                 ///< all of it, as `smartio_tool monitor --json` prints it
};

/// Events of a node, for a program's own loop: wait until fd() can be read, then call next() until it gives none. The
/// first is of the kind "snapshot", whose json is the node's status (tools/schema/status.json); those after it happened
/// after it. For one thread at a time.
class Events {
public:
  Events() noexcept;
  Events(Events&&) noexcept;
  Events& operator=(Events&&) noexcept;
  ~Events();
  explicit operator bool() const noexcept { return source_ != nullptr; } ///< not empty: neither moved from nor default

  int fd() const noexcept; ///< borrowed; readable while next() gives something or has ended

  /// The next event, nullopt when there is none now; does not block. At the end, and from then on, an error:
  /// Errc::peer_down when the node has ended, Errc::no_window when more than 4096 events were not fetched in time. What
  /// was missed then is in the snapshot of Events that are made anew.
  Result<std::optional<Event>> next();

private:
  friend class Node;
  explicit Events(std::unique_ptr<detail::EventSource> source) noexcept;
  std::unique_ptr<detail::EventSource> source_;
};

} // namespace v0
} // namespace smartio

#endif
