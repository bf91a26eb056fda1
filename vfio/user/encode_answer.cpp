// Replies as the server writes them.
#include "codec.hpp"

#include <algorithm>
#include <cerrno>

namespace smartio::vfio::user {
namespace {

using Bytes = std::span<const std::byte>;

struct AnswerEncoder {
  Command command;
  Bytes sent;

  /// The command's own fixed part, repeated.
  template <class T> T echo() const { return load<T>(sent).value_or(T{}); }

  std::expected<Payload, int> operator()(const Done&) const {
    switch (command) {
    case Command::region_write: return Payload{Body(echo<AccessBody>()), {}, {}};
    case Command::set_irqs:
    case Command::dma_map:
    case Command::reset: return Payload{};
    default: return std::unexpected(EIO);
    }
  }

  std::expected<Payload, int> operator()(const Info& info) const {
    if (command != Command::get_info) return std::unexpected(EIO);
    return encode_info(sent, info);
  }

  std::expected<Payload, int> operator()(const RegionInfo& info) const {
    if (command != Command::get_region_info) return std::unexpected(EIO);
    return encode_region_info(sent, info);
  }

  std::expected<Payload, int> operator()(const IrqInfo& info) const {
    if (command != Command::get_irq_info) return std::unexpected(EIO);
    const auto index = echo<IrqInfoBody>().index;
    return Payload{Body(IrqInfoBody{sizeof(IrqInfoBody), info.flags, index, info.count}), {}, {}};
  }

  std::expected<Payload, int> operator()(const Data& data) const {
    const auto body = echo<AccessBody>();
    if (command != Command::region_read || data.bytes.size() != body.count) return std::unexpected(EIO);
    return Payload{Body(body), data.bytes, {}};
  }

  /// The specification wants the request's entry, whatever there was of it.
  std::expected<Payload, int> operator()(const Unmapped&) const {
    if (command != Command::dma_unmap) return std::unexpected(EIO);
    return Payload{Body(echo<DmaUnmapBody>()), {}, {}};
  }
};

} // namespace

Payload encode_region_info(Bytes sent, const RegionInfo& info) {
  const auto asked = load<RegionInfoBody>(sent).value_or(RegionInfoBody{});
  const bool mappable = info.fd && !info.areas.empty() && info.size != 0;
  auto flags = info.flags & (region_flag_read | region_flag_write);
  if (mappable) flags |= region_flag_mmap;
  RegionInfoBody body{sizeof body, flags, asked.index, 0, info.size, mappable ? info.fd_offset : 0};
  if (!mappable) return {Body(body), {}, {}};
  // Of equally long areas max_element gives the first.
  const auto area = *std::ranges::max_element(info.areas, {}, &RegionArea::size);
  if (area == RegionArea{0, info.size}) return {Body(body), {}, {info.fd.get()}};
  body.argsz = sizeof body + sizeof(SparseCap) + sizeof(SparseArea);
  if (asked.argsz < body.argsz) return {Body(body), {}, {}}; // and no word of a capability that is not there
  body.flags |= region_flag_caps;
  body.cap_offset = sizeof body;
  Payload payload{Body(body), {}, {info.fd.get()}};
  payload.body.append(SparseCap{sparse_cap_id, sparse_cap_version, 0, 1, 0});
  payload.body.append(SparseArea{area.offset, area.size});
  return payload;
}

/// What the device says of capabilities is not passed on: these are other ones.
Payload encode_info(Bytes sent, const Info& info) {
  const auto ranges = std::span(info.iovas).first(std::min<std::size_t>(info.iovas.size(), most_iova_ranges));
  InfoBody body{sizeof body, info.flags & ~info_flag_caps, info.regions, info.irqs};
  const auto whole = static_cast<std::uint32_t>(sizeof body + sizeof(InfoCaps) + sizeof(IovaCap) + ranges.size_bytes());
  if (ranges.empty() || load<InfoBody>(sent).value_or(InfoBody{}).argsz < whole) return {Body(body), {}, {}};
  body.argsz = whole;
  body.flags |= info_flag_caps;
  Payload payload{Body(body), std::as_bytes(ranges), {}};
  payload.body.append(InfoCaps{sizeof body + sizeof(InfoCaps), 0});
  payload.body.append(IovaCap{iova_cap_id, iova_cap_version, 0, static_cast<std::uint32_t>(ranges.size()), 0});
  return payload;
}

std::expected<Payload, int> encode_answer(Command command, Bytes sent, const Answer& answer) {
  return std::visit(AnswerEncoder{command, sent}, answer);
}

} // namespace smartio::vfio::user
