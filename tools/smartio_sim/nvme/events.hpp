// Asynchronous events (1.4, 5.2): the requests the host has left with us, and what happened. Pure.
#pragma once

#include "spec.hpp"

#include <array>
#include <optional>
#include <vector>

namespace smartio::sim::nvme {

enum class EventType : std::uint8_t { error = 0, health = 1 };
enum class ErrorEvent : std::uint8_t { invalid_doorbell_register = 0, invalid_doorbell_value = 1 };
enum class HealthEvent : std::uint8_t { temperature = 1 };

class Events {
public:
  /// Takes a request; false when the limit of event_limit + 1 is reached.
  bool request(std::uint16_t command_id);
  /// Takes a request back (Abort).
  bool cancel(std::uint16_t command_id);

  void raise(ErrorEvent event);
  void raise(HealthEvent event);
  /// The host has read the log page of this type: further events of the type may be reported.
  void log_read(EventType type);

  struct Report {
    std::uint16_t command_id;
    std::uint32_t result; ///< dword 0
  };
  /// The next request to complete, if there is an event for it.
  std::optional<Report> next();
  void reset(); ///< requests and events are gone; requests get no completion

private:
  struct Type {
    std::uint8_t log_page;
    std::uint8_t happened = 0; ///< bit per event
    bool reported = false;     ///< and not yet read: held back
  };
  std::array<Type, 2> types_{Type{0x01}, Type{0x02}};
  std::vector<std::uint16_t> requests_;
};

} // namespace smartio::sim::nvme
