// vfio-user payloads to requests and answers and back, for both ends. Pure: no I/O, no state, any bytes are safe to
// decode. What depends on the device (which regions, interrupts and rights it has) is view.hpp's business.
#pragma once

#include "../device.hpp"
#include "wire.hpp"

#include <array>
#include <cassert>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace smartio::vfio::user {

/// The fixed part of a payload: at most a region's info with one sparse capability.
class Body {
public:
  std::span<const std::byte> bytes() const noexcept { return std::span(bytes_).first(size_); }

  void append(std::span<const std::byte> more) noexcept {
    assert(more.size() <= bytes_.size() - size_);
    std::memcpy(bytes_.data() + size_, more.data(), more.size());
    size_ += more.size();
  }
  template <class T> void append(const T& value) noexcept { append(bytes_of(value)); }
  template <class T> explicit Body(const T& value) noexcept { append(value); }
  Body() noexcept = default;

private:
  std::array<std::byte, 64> bytes_; // the first size_ are set
  std::size_t size_ = 0;
};

/// A payload ready to be sent. `tail` and `fds` are borrowed from what was encoded.
struct Payload {
  Body body;
  std::span<const std::byte> tail;
  std::vector<int> fds;
};

/// A reply's payload repeats much of its command's; `sent` below is the command's payload, or at least its first 32
/// bytes.
inline constexpr std::size_t echo_size = 32;

// The server's half.

/// What the command asks of the device, checked for everything that does not depend on the device: sizes, flags, one
/// action and one kind of data, alignment, ranges that wrap, number of descriptors. Otherwise the errno to answer:
/// EINVAL for malformed ones and features, EOPNOTSUPP for commands that no server must know. VERSION, DMA_READ and
/// DMA_WRITE are not requests of a device: EINVAL. Descriptors that the command does not take are closed.
std::expected<Request, int> decode_request(Command command, std::span<const std::byte> payload, std::vector<Fd> fds);

/// The reply to the command. EIO when the answer is not one that belongs to it: the device's bug. A region's info is
/// cut to the client's argsz; only a complete one has the descriptor. Several areas become one, the longest. Ranges of
/// IOVAs are told where they fit.
std::expected<Payload, int> encode_answer(Command command, std::span<const std::byte> sent, const Answer& answer);
Payload encode_region_info(std::span<const std::byte> sent, const RegionInfo& info);
Payload encode_info(std::span<const std::byte> sent, const Info& info);

// The client's half.

Command command_of(const Request& request) noexcept;
std::string name_of(Command command); ///< "GET_REGION_INFO"; its number where it has no name here

/// The command for one request, which must fit one message: at most max_transfer bytes of data and max_fds
/// descriptors. `argsz` is the room that a region's info may take, at least 32.
Payload encode_request(const Request& request, std::uint32_t argsz = 4096);

/// The answer in a successful reply's payload, nullopt when it is not one to what was `sent`. A region's info that did
/// not fit (see wanted_argsz) has no areas.
std::optional<Answer> decode_answer(Command command, std::span<const std::byte> sent,
                                    std::span<const std::byte> payload, std::vector<Fd> fds);

/// Room that the complete info of the region takes, when the reply says that it is more than was offered.
std::optional<std::uint32_t> wanted_argsz(std::span<const std::byte> sent, std::span<const std::byte> reply);

// Message DMA, in both directions.

/// The payload of DMA_READ, DMA_WRITE or their replies; `data` follows the fixed part.
struct DmaAccess {
  Iova iova;
  std::uint32_t count; ///< bytes, 1 to max_transfer
  std::span<const std::byte> data;
};
Body encode_dma(Iova iova, std::uint32_t count);
/// nullopt: too short, or count is 0, too large, or (with_data) not the number of bytes that follow (otherwise: of
/// none).
std::optional<DmaAccess> decode_dma(std::span<const std::byte> payload, bool with_data);

} // namespace smartio::vfio::user
