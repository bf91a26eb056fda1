#include "frame.hpp"

#include "result.hpp"

namespace smartio::core {

std::string encode_frame(FrameKind kind, std::string_view payload) {
  const auto length = static_cast<std::uint32_t>(payload.size() + 1);
  std::string frame;
  frame.reserve(payload.size() + 5);
  for (unsigned shift = 0; shift < 32; shift += 8) frame += static_cast<char>(length >> shift & 0xff);
  frame += static_cast<char>(kind);
  return frame.append(payload);
}

Result<std::optional<Frame>> FrameReader::next() {
  if (buffer_.size() < 5) return std::nullopt;
  std::uint32_t length = 0;
  for (unsigned i = 0; i < 4; ++i)
    length |= static_cast<std::uint32_t>(static_cast<unsigned char>(buffer_[i])) << (8 * i);
  if (length == 0 || length > limit_) return fail(Errc::bad_request, "a frame of {} bytes is not allowed", length);
  const auto kind = static_cast<unsigned char>(buffer_[4]);
  if (kind > 1) return fail(Errc::bad_request, "a frame of kind {} is not known", kind);
  if (buffer_.size() - 4 < length) return std::nullopt;
  Frame frame{static_cast<FrameKind>(kind), buffer_.substr(5, length - 1)};
  buffer_.erase(0, std::size_t{4} + length);
  return frame;
}

} // namespace smartio::core
