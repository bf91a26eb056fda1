// What is asked of a device over the peer connection: what goes out comes in, and nothing malformed does.
#include "device_message.hpp"

#include "catch.hpp"

using namespace smartio;
using namespace smartio::core;

namespace {

const LoanId loan{DeviceId{0x80002}, 0x123456789abcdef0};

} // namespace

TEST_CASE("a message for a device comes in as it went out") {
  using Kind = DeviceMessage::Kind;
  for (const auto kind : {Kind::command, Kind::reply, Kind::closed, Kind::interrupt})
    for (const bool window : {true, false})
      for (const std::size_t doorbells : {0U, 1U, 255U})
        for (const std::size_t size : {0U, 1U, 4096U}) {
          const DeviceMessage message{loan,
                                      0x11111111,
                                      {0x44444444, 0x55555555},
                                      kind,
                                      0x22222222,
                                      0x3333,
                                      window,
                                      std::vector<std::uint8_t>(doorbells, no_doorbell),
                                      std::string(size, 'x')};
          const auto bytes = encode(message);
          CHECK(bytes.size() == device_message_head + doorbells + size);
          CHECK(decode_device_message(bytes) == message);
        }
}

TEST_CASE("a message for a device that is cut off, or of no known kind, is refused") {
  const DeviceMessage message{.loan = loan, .doorbells = {1, 2, 3}};
  const auto whole = encode(message);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(decode_device_message(whole.substr(0, size)).has_value()); // up to the last doorbell
  }
  CHECK(decode_device_message(whole) == message);
  const std::size_t kind = 22, window = 23, count = 24;
  for (const auto& [at, most] : {std::pair(kind, 3U), std::pair(window, 1U), std::pair(count, 3U)})
    for (unsigned value = 0; value < 256; ++value) {
      auto bytes = whole;
      bytes[at] = static_cast<char>(value);
      CAPTURE(at, value);
      CHECK(decode_device_message(bytes).has_value() == (value <= most));
    }
}
