// Commands as the server reads them.
#include "codec.hpp"

#include "mapping.hpp"
#include "page.hpp"

#include <bit>
#include <cerrno>
#include <limits>
#include <utility>

namespace smartio::vfio::user {
namespace {

using Bytes = std::span<const std::byte>;
using Checked = std::expected<Request, int>;

Checked invalid() { return std::unexpected(EINVAL); }

/// The T of a payload that holds nothing else.
template <class T> std::optional<T> exactly(Bytes payload) {
  return payload.size() == sizeof(T) ? load<T>(payload) : std::nullopt;
}

/// Whether [start, start+size) ends at 2^64 or before; `size` is not 0.
bool fits_address_space(std::uint64_t start, std::uint64_t size) {
  return size - 1 <= std::numeric_limits<std::uint64_t>::max() - start;
}

Checked decode_dma_map(Bytes payload, std::vector<Fd> fds) {
  const auto body = exactly<DmaMapBody>(payload);
  if (!body || body->argsz < sizeof *body || fds.size() > 1) return invalid();
  if (body->flags == 0 || (body->flags & ~(dma_flag_read | dma_flag_write)) != 0) return invalid();
  if (body->size == 0 || (body->iova | body->size) % page_size != 0) return invalid();
  if (!fits_address_space(body->iova, body->size)) return invalid();
  constexpr auto largest_file = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!fds.empty() && (body->offset % page_size != 0 || !in_range(body->offset, body->size, largest_file)))
    return invalid();
  return DmaMap{.iova = Iova{body->iova},
                .size = body->size,
                .access = static_cast<Access>(body->flags),
                .fd = fds.empty() ? Fd() : std::move(fds.front()),
                .offset = body->offset};
}

Checked decode_dma_unmap(Bytes payload) {
  const auto body = load<DmaUnmapBody>(payload);
  if (!body || body->argsz < sizeof *body) return invalid();
  if ((body->flags & unmap_flag_dirty) != 0) return std::unexpected(EOPNOTSUPP); // migration is not offered
  if (payload.size() != sizeof *body || (body->flags & ~unmap_flag_all) != 0) return invalid();
  const bool all = body->flags == unmap_flag_all;
  if (all) {
    if (body->iova != 0 || body->size != 0) return invalid();
    return DmaUnmap{Iova{0}, 0, true};
  }
  if (body->size == 0 || (body->iova | body->size) % page_size != 0) return invalid();
  if (!fits_address_space(body->iova, body->size)) return invalid();
  return DmaUnmap{Iova{body->iova}, body->size, false};
}

/// Clients may send more than the structure (SPDK does, as room for the reply).
template <class Body> std::optional<Body> with_argsz(Bytes payload) {
  const auto body = load<Body>(payload);
  return body && body->argsz >= sizeof(Body) ? body : std::nullopt;
}

Checked decode_get_info(Bytes payload) {
  if (!with_argsz<InfoBody>(payload)) return invalid();
  return GetInfo{};
}

Checked decode_get_region_info(Bytes payload) {
  const auto body = with_argsz<RegionInfoBody>(payload);
  if (!body) return invalid();
  return GetRegionInfo{body->index};
}

Checked decode_get_irq_info(Bytes payload) {
  const auto body = with_argsz<IrqInfoBody>(payload);
  if (!body) return invalid();
  return GetIrqInfo{body->index};
}

/// One action and one kind of data, with as many data as there are interrupts.
bool good_irq_data(const SetIrqsBody& body, std::size_t bools, std::size_t fds) {
  constexpr auto data_flags = irq_data_none | irq_data_bool | irq_data_eventfd;
  constexpr auto action_flags = irq_action_mask | irq_action_unmask | irq_action_trigger;
  if ((body.flags & ~(data_flags | action_flags)) != 0) return false;
  if (!std::has_single_bit(body.flags & data_flags) || !std::has_single_bit(body.flags & action_flags)) return false;
  const bool none = (body.flags & irq_data_none) != 0;
  if (body.count == 0) // disables all, and only that
    return body.flags == (irq_data_none | irq_action_trigger) && body.start == 0 && bools == 0 && fds == 0;
  if (none) return bools == 0 && fds == 0;
  if ((body.flags & irq_data_bool) != 0) return bools == body.count && fds == 0;
  return bools == 0 && (fds == 0 || fds == body.count);
}

Checked decode_set_irqs(Bytes payload, std::vector<Fd> fds) {
  const auto body = with_argsz<SetIrqsBody>(payload);
  if (!body) return invalid();
  const auto bools = payload.subspan(sizeof *body);
  if (!good_irq_data(*body, bools.size(), fds.size())) return invalid();
  SetIrqs request{body->flags, body->index, body->start, body->count, {}, std::move(fds)};
  request.bools.resize(bools.size());
  if (!bools.empty()) std::memcpy(request.bools.data(), bools.data(), bools.size());
  return request;
}

bool good_access(const AccessBody& body) {
  return body.count != 0 && body.count <= max_transfer &&
         in_range(body.offset, body.count, std::numeric_limits<std::uint64_t>::max());
}

Checked decode_region_read(Bytes payload) {
  const auto body = exactly<AccessBody>(payload);
  if (!body || !good_access(*body)) return invalid();
  return RegionRead{body->region, body->offset, body->count};
}

Checked decode_region_write(Bytes payload) {
  const auto body = load<AccessBody>(payload);
  if (!body || !good_access(*body)) return invalid();
  const auto data = payload.subspan(sizeof *body);
  if (data.size() != body->count) return invalid();
  return RegionWrite{body->region, body->offset, {data.begin(), data.end()}};
}

} // namespace

Checked decode_request(Command command, Bytes payload, std::vector<Fd> fds) {
  switch (command) {
  case Command::dma_map: return decode_dma_map(payload, std::move(fds));
  case Command::dma_unmap: return decode_dma_unmap(payload);
  case Command::get_info: return decode_get_info(payload);
  case Command::get_region_info: return decode_get_region_info(payload);
  case Command::get_irq_info: return decode_get_irq_info(payload);
  case Command::set_irqs: return decode_set_irqs(payload, std::move(fds));
  case Command::region_read: return decode_region_read(payload);
  case Command::region_write: return decode_region_write(payload);
  case Command::reset: return payload.empty() ? Checked(Reset{}) : invalid();
  case Command::version: // not for the device
  case Command::dma_read:
  case Command::dma_write:
  case Command::device_feature: return invalid(); // QEMU takes EINVAL for "no such feature"
  default: return std::unexpected(EOPNOTSUPP);
  }
}

} // namespace smartio::vfio::user
