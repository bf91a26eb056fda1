// Replies as the client reads them.
#include "codec.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <utility>

namespace smartio::vfio::user {
namespace {

using Bytes = std::span<const std::byte>;
using Decoded = std::optional<Answer>;
constexpr std::uint32_t most_areas = 256;

Decoded done_if(bool good) { return good ? Decoded(Done{}) : std::nullopt; }

Decoded decode_irq_info(Bytes sent, Bytes payload) {
  const auto body = load<IrqInfoBody>(payload);
  const auto asked = load<IrqInfoBody>(sent);
  if (!body || !asked || body->index != asked->index) return std::nullopt;
  return IrqInfo{body->flags, body->count};
}

Decoded decode_data(Bytes sent, Bytes payload) {
  const auto body = load<AccessBody>(payload);
  const auto asked = load<AccessBody>(sent);
  if (!body || !asked || body->count != asked->count) return std::nullopt;
  const auto data = payload.subspan(sizeof *body);
  if (data.size() != asked->count) return std::nullopt;
  return Data{{data.begin(), data.end()}};
}

Decoded decode_written(Bytes sent, Bytes payload) {
  const auto body = load<AccessBody>(payload);
  const auto asked = load<AccessBody>(sent);
  return done_if(body && asked && payload.size() == sizeof *body && body->count == asked->count);
}

Decoded decode_unmapped(Bytes payload) {
  const auto body = load<DmaUnmapBody>(payload);
  if (!body || payload.size() != sizeof *body) return std::nullopt;
  return Unmapped{body->size};
}

/// The areas of the sparse capability at `cap`, nullopt when they do not fit what is there or the region.
std::optional<std::vector<RegionArea>> decode_areas(Bytes cap, std::uint64_t region_size) {
  const auto head = load<SparseCap>(cap);
  if (!head || head->areas > most_areas) return std::nullopt;
  auto rest = cap.subspan(sizeof *head);
  if (rest.size() / sizeof(SparseArea) < head->areas) return std::nullopt;
  std::vector<RegionArea> areas;
  for (std::uint32_t i = 0; i < head->areas; ++i, rest = rest.subspan(sizeof(SparseArea))) {
    const auto area = *load<SparseArea>(rest);
    if (area.size == 0 || !in_range(area.offset, area.size, region_size)) return std::nullopt;
    areas.push_back({area.offset, area.size});
  }
  return areas;
}

/// Follows the chain of capabilities, which begins at `at`, each further on than the one before, to the one wanted: its
/// bytes, and what follows; empty where there is none, nullopt where the chain is broken.
std::optional<Bytes> find_cap(Bytes payload, std::size_t fixed, std::uint32_t at, std::uint16_t wanted) {
  std::uint32_t previous = 0;
  while (at != 0) {
    if (at <= previous || at < fixed || at > payload.size()) return std::nullopt;
    struct CapHeader {
      std::uint16_t id, version;
      std::uint32_t next;
    };
    const auto cap = load<CapHeader>(payload.subspan(at));
    if (!cap) return std::nullopt;
    if (cap->id == wanted) return payload.subspan(at);
    previous = std::exchange(at, cap->next);
  }
  return Bytes{};
}

/// Without the sparse capability the whole region is an area.
std::optional<std::vector<RegionArea>> find_areas(Bytes payload, const RegionInfoBody& body) {
  const auto at = (body.flags & region_flag_caps) != 0 ? body.cap_offset : 0;
  const auto cap = find_cap(payload, sizeof body, at, sparse_cap_id);
  if (!cap) return std::nullopt;
  return cap->empty() ? std::vector<RegionArea>{{0, body.size}} : decode_areas(*cap, body.size);
}

/// The ranges of the capability at `cap`, nullopt when they do not fit what is there, or do not ascend.
std::optional<std::vector<IovaRange>> decode_ranges(Bytes cap) {
  const auto head = load<IovaCap>(cap);
  if (!head || head->ranges > most_iova_ranges) return std::nullopt;
  auto rest = cap.subspan(sizeof *head);
  std::vector<IovaRange> ranges;
  for (std::uint32_t i = 0; i < head->ranges; ++i, rest = rest.subspan(sizeof(IovaRange))) {
    const auto range = load<IovaRange>(rest);
    if (!range || range->first > range->last || (!ranges.empty() && range->first <= ranges.back().last))
      return std::nullopt;
    ranges.push_back(*range);
  }
  return ranges;
}

Decoded decode_info(Bytes payload) {
  const auto body = load<InfoBody>(payload);
  if (!body) return std::nullopt;
  Info info{body->flags & ~info_flag_caps, body->regions, body->irqs};
  const auto caps = load<InfoCaps>(payload.subspan(sizeof *body));
  if ((body->flags & info_flag_caps) == 0 || !caps) return info;
  const auto cap = find_cap(payload, sizeof *body + sizeof *caps, caps->offset, iova_cap_id);
  if (!cap) return std::nullopt;
  if (cap->empty()) return info;
  auto ranges = decode_ranges(*cap);
  if (!ranges) return std::nullopt;
  info.iovas = std::move(*ranges);
  return info;
}

Decoded decode_region_info(Bytes sent, Bytes payload, std::vector<Fd> fds) {
  const auto body = load<RegionInfoBody>(payload);
  const auto asked = load<RegionInfoBody>(sent);
  if (!body || !asked || body->index != asked->index) return std::nullopt;
  RegionInfo info{.flags = body->flags & (region_flag_read | region_flag_write), .size = body->size};
  if ((body->flags & region_flag_mmap) == 0) return fds.empty() ? Decoded(std::move(info)) : std::nullopt;
  if (fds.empty() || body->size == 0) return info; // cannot be mapped, or did not fit
  auto areas = find_areas(payload, *body);
  if (!areas) return std::nullopt;
  // Servers that give a descriptor for each area: the first is good for the first.
  if (fds.size() > 1 && areas->size() > 1) areas->resize(1);
  if (areas->empty()) return info;
  for (const auto& area : *areas)
    if (!in_range(body->offset, area.offset + area.size, INT64_MAX)) return std::nullopt;
  info.flags |= region_flag_mmap;
  info.fd_offset = body->offset;
  info.areas = std::move(*areas);
  info.fd = std::move(fds.front());
  return info;
}

} // namespace

Decoded decode_answer(Command command, Bytes sent, Bytes payload, std::vector<Fd> fds) {
  if (command == Command::get_region_info) return decode_region_info(sent, payload, std::move(fds));
  if (!fds.empty()) return std::nullopt;
  switch (command) {
  case Command::get_info: return decode_info(payload);
  case Command::get_irq_info: return decode_irq_info(sent, payload);
  case Command::region_read: return decode_data(sent, payload);
  case Command::region_write: return decode_written(sent, payload);
  case Command::dma_unmap: return decode_unmapped(payload);
  case Command::dma_map:
  case Command::set_irqs:
  case Command::reset: return done_if(payload.empty());
  default: return std::nullopt;
  }
}

std::optional<std::uint32_t> wanted_argsz(Bytes sent, Bytes reply) {
  const auto asked = load<RegionInfoBody>(sent);
  const auto body = load<RegionInfoBody>(reply);
  if (!asked || !body || body->argsz <= asked->argsz) return std::nullopt;
  return body->argsz;
}

} // namespace smartio::vfio::user
