// What is asked of a lent device over the peer connection, where a path (fabric/path.hpp) joins the two nodes: the
// payload of a frame of kind vfio_user. Pure; any bytes are safe to decode.
//
// The payload of a vfio-user command or reply stands in it as on a socket; where a descriptor would go along, it names
// a window: memory at `offset` of DMA_MAP, and a region at `offset` of its info, are offsets of the path's window of
// the node that speaks. Eventfds stay at each end: an interrupt is a doorbell of the path, or a message.
#pragma once

#include "events.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::core {

/// Which path a message belongs to: the numbers that its two ends drew for their present lives (fabric/path.hpp). Two
/// nodes may have several, and an offset of one means nothing on another.
struct DevicePath {
  std::uint32_t from = 0, to = 0; ///< the speaker's end, the other
  DevicePath reversed() const { return {to, from}; }
  bool operator==(const DevicePath&) const = default;
};

struct DeviceMessage {
  enum class Kind : std::uint8_t {
    command,   ///< borrower: answered by one reply with the same number
    reply,     ///< lender
    closed,    ///< either: this client's use of the device is over
    interrupt, ///< lender: `number` is the interrupt's index, `code` the vector
  };
  LoanId loan;
  std::uint32_t session = 0; ///< the borrower's number for one client of the loan, never used again
  DevicePath path;           ///< of the session
  Kind kind{};
  std::uint32_t number = 0;
  std::uint16_t code = 0;              ///< of a command: vfio-user's; of a reply: 0 or an errno
  bool window = false;                 ///< the payload names a window
  std::vector<std::uint8_t> doorbells; ///< of SET_IRQS with eventfds, one each: the bit to ring; no_doorbell: a message
  std::string payload;
  bool operator==(const DeviceMessage&) const = default;
};
inline constexpr std::uint8_t no_doorbell = 0xff;

/// Bytes before the doorbells and the payload.
inline constexpr std::size_t device_message_head = 36;

std::string encode(const DeviceMessage& message);
std::optional<DeviceMessage> decode_device_message(std::string_view bytes);

} // namespace smartio::core
