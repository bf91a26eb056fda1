// Frames of the peer and control connections: u32 length (little endian, of what follows), u8 kind, payload. Pure.
#pragma once

#include <smartio/error.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace smartio::core {

enum class FrameKind : std::uint8_t { json = 0, vfio_user = 1 };

struct Frame {
  FrameKind kind;
  std::string payload;
};

/// The largest frame accepted from a peer or control client, payload and kind, in bytes.
inline constexpr std::size_t frame_limit = (1U << 20) + 64;
/// The same for answers of the host's own daemon.
inline constexpr std::size_t answer_limit = 16U << 20;

std::string encode_frame(FrameKind kind, std::string_view payload);

/// Cuts a byte stream into frames. Holds at most one frame's bytes beyond what was fed.
class FrameReader {
public:
  explicit FrameReader(std::size_t limit = frame_limit) : limit_(limit) {}
  void set_limit(std::size_t limit) { limit_ = limit; }
  void feed(std::string_view bytes) { buffer_.append(bytes); }
  /// The next whole frame, nullopt if more bytes are needed, Errc::bad_request (for good) on a length of 0 or above the
  /// limit, or an unknown kind.
  Result<std::optional<Frame>> next();
  bool in_frame() const noexcept { return !buffer_.empty(); } ///< a frame has begun and is not complete

private:
  std::size_t limit_;
  std::string buffer_;
};

} // namespace smartio::core
