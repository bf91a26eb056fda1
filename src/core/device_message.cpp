#include "device_message.hpp"

#include <cstring>

namespace smartio::core {
namespace {

/// Little endian, as both ends of a bridge are.
struct Head {
  std::uint64_t epoch;
  std::uint32_t device, session, number;
  std::uint16_t code;
  std::uint8_t kind, window, doorbells, reserved[3];
  std::uint32_t from, to;
};
static_assert(sizeof(Head) == 40 && offsetof(Head, to) + 4 == device_message_head);

} // namespace

std::string encode(const DeviceMessage& message) {
  Head head{message.loan.epoch,
            static_cast<std::uint32_t>(message.loan.device),
            message.session,
            message.number,
            message.code,
            static_cast<std::uint8_t>(message.kind),
            message.window ? std::uint8_t{1} : std::uint8_t{0},
            static_cast<std::uint8_t>(message.doorbells.size()),
            {},
            message.path.from,
            message.path.to};
  std::string bytes(reinterpret_cast<const char*>(&head), device_message_head);
  bytes.append(message.doorbells.begin(), message.doorbells.end());
  return bytes + message.payload;
}

std::optional<DeviceMessage> decode_device_message(std::string_view bytes) {
  if (bytes.size() < device_message_head) return std::nullopt;
  Head head{};
  std::memcpy(&head, bytes.data(), device_message_head);
  bytes.remove_prefix(device_message_head);
  if (head.kind > 3 || head.window > 1 || head.doorbells > bytes.size()) return std::nullopt;
  DeviceMessage message{.loan = {DeviceId{head.device}, head.epoch},
                        .session = head.session,
                        .path = {head.from, head.to},
                        .kind = static_cast<DeviceMessage::Kind>(head.kind),
                        .number = head.number,
                        .code = head.code,
                        .window = head.window != 0,
                        .doorbells = {},
                        .payload = {}};
  message.doorbells.assign(bytes.begin(), bytes.begin() + head.doorbells);
  message.payload = bytes.substr(head.doorbells);
  return message;
}

} // namespace smartio::core
