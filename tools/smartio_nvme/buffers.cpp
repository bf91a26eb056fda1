#include "buffers.hpp"

#include "result.hpp"

namespace nvme {
smartio::Result<Buffers> Buffers::make(const smartio::Device& device, unsigned count, std::size_t bytes) {
  const std::size_t stride = whole_pages(bytes);
  auto memory = TRY(smartio::Memory::allocate(count * (stride + page_size)));
  auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  return Buffers(std::move(memory), std::move(window), stride, count);
}

Buffers::Buffers(smartio::Memory memory, smartio::DmaWindow window, std::size_t stride, unsigned count)
    : memory_(std::move(memory)), window_(std::move(window)), stride_(stride), count_(count) {
  // A list names the pages after the first (4.3); the buffers never move, so it is written once.
  for (unsigned buffer = 0; buffer < count_; ++buffer) {
    auto* list = reinterpret_cast<std::uint64_t*>(memory_.bytes().data() + list_offset(buffer));
    for (std::size_t offset = page_size; offset < stride_; offset += page_size)
      *list++ = std::to_underlying(window_.iova()) + buffer * stride_ + offset;
  }
}

std::uint64_t Buffers::list_offset(unsigned buffer) const noexcept { return count_ * stride_ + buffer * page_size; }

std::span<std::byte> Buffers::data(unsigned buffer) const noexcept {
  return memory_.bytes().subspan(buffer * stride_, stride_);
}

void Buffers::describe(Command& command, unsigned buffer, std::size_t bytes) const noexcept {
  const std::uint64_t base = std::to_underlying(window_.iova());
  command.prp1 = base + buffer * stride_;
  if (bytes > 2 * page_size)
    command.prp2 = base + list_offset(buffer);
  else if (bytes > page_size)
    command.prp2 = command.prp1 + page_size;
}

} // namespace nvme
