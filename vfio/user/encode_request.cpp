// Commands as the client writes them, and message DMA.
#include "codec.hpp"

#include <cassert>
#include <utility>

namespace smartio::vfio::user {
namespace {

/// Room for an info with all that it can have.
constexpr std::uint32_t info_argsz =
    sizeof(InfoBody) + sizeof(InfoCaps) + sizeof(IovaCap) + most_iova_ranges * sizeof(IovaRange);
static_assert(sizeof(IovaRange) == 16); // as vfio_iova_range

struct RequestEncoder {
  std::uint32_t argsz;

  Payload operator()(const GetInfo&) const { return {Body(InfoBody{info_argsz, 0, 0, 0}), {}, {}}; }
  Payload operator()(const GetRegionInfo& get) const {
    return {Body(RegionInfoBody{argsz, 0, get.index, 0, 0, 0}), {}, {}};
  }
  Payload operator()(const GetIrqInfo& get) const {
    return {Body(IrqInfoBody{sizeof(IrqInfoBody), 0, get.index, 0}), {}, {}};
  }
  Payload operator()(const SetIrqs& set) const {
    assert(set.eventfds.size() <= max_fds && set.bools.size() <= max_transfer);
    const auto size = static_cast<std::uint32_t>(sizeof(SetIrqsBody) + set.bools.size());
    Payload payload{Body(SetIrqsBody{size, set.flags, set.index, set.start, set.count}), {}, {}};
    payload.tail = std::as_bytes(std::span(set.bools));
    for (const auto& fd : set.eventfds) payload.fds.push_back(fd.get());
    return payload;
  }
  Payload operator()(const RegionRead& read) const {
    return {Body(AccessBody{read.offset, read.region, read.count}), {}, {}};
  }
  Payload operator()(const RegionWrite& write) const {
    assert(write.data.size() <= max_transfer);
    const auto count = static_cast<std::uint32_t>(write.data.size());
    return {Body(AccessBody{write.offset, write.region, count}), write.data, {}};
  }
  Payload operator()(const DmaMap& map) const {
    const auto flags = static_cast<std::uint32_t>(map.access);
    Payload payload{
        Body(DmaMapBody{sizeof(DmaMapBody), flags, map.offset, static_cast<std::uint64_t>(map.iova), map.size}),
        {},
        {}};
    if (map.fd) payload.fds.push_back(map.fd.get());
    return payload;
  }
  Payload operator()(const DmaUnmap& unmap) const {
    if (unmap.all) return {Body(DmaUnmapBody{sizeof(DmaUnmapBody), unmap_flag_all, 0, 0}), {}, {}};
    return {Body(DmaUnmapBody{sizeof(DmaUnmapBody), 0, static_cast<std::uint64_t>(unmap.iova), unmap.size}), {}, {}};
  }
  Payload operator()(const Reset&) const { return {}; }
};

} // namespace

Command command_of(const Request& request) noexcept {
  // In the order of the alternatives of Request.
  constexpr std::array commands{Command::get_info, Command::get_region_info, Command::get_irq_info,
                                Command::set_irqs, Command::region_read,     Command::region_write,
                                Command::dma_map,  Command::dma_unmap,       Command::reset};
  static_assert(commands.size() == std::variant_size_v<Request>);
  return commands[request.index()];
}

Payload encode_request(const Request& request, std::uint32_t argsz) {
  return std::visit(RequestEncoder{argsz}, request);
}

Body encode_dma(Iova iova, std::uint32_t count) { return Body(DmaAccessBody{static_cast<std::uint64_t>(iova), count}); }

std::optional<DmaAccess> decode_dma(std::span<const std::byte> payload, bool with_data) {
  const auto body = load<DmaAccessBody>(payload);
  if (!body || body->count == 0 || body->count > max_transfer) return std::nullopt;
  const auto data = payload.subspan(sizeof *body);
  if (data.size() != (with_data ? body->count : 0)) return std::nullopt;
  return DmaAccess{Iova{body->iova}, static_cast<std::uint32_t>(body->count), data};
}

std::string name_of(Command command) {
  switch (command) {
  case Command::version: return "VERSION";
  case Command::dma_map: return "DMA_MAP";
  case Command::dma_unmap: return "DMA_UNMAP";
  case Command::get_info: return "GET_INFO";
  case Command::get_region_info: return "GET_REGION_INFO";
  case Command::get_irq_info: return "GET_IRQ_INFO";
  case Command::set_irqs: return "SET_IRQS";
  case Command::region_read: return "REGION_READ";
  case Command::region_write: return "REGION_WRITE";
  case Command::reset: return "RESET";
  default: return "command " + std::to_string(std::to_underlying(command));
  }
}

} // namespace smartio::vfio::user
