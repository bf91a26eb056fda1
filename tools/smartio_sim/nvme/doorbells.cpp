#include "doorbells.hpp"

#include "result.hpp"

#include <atomic>
#include <fcntl.h>

namespace smartio::sim::nvme {

Result<Doorbells> Doorbells::open(const Shape& shape) {
  auto fd = TRY(make_memfd("nvme-doorbells", shape.doorbells_end()));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return fail_errno(errno, "seal the doorbell pages");
  auto pages = TRY(Mapping::map(fd.get(), register_offset::doorbells, shape.doorbells_size()));
  return Doorbells(std::move(fd), std::move(pages), shape.doorbell_stride);
}

std::uint32_t Doorbells::load_word(std::uint64_t word) const {
  auto* words = reinterpret_cast<std::uint32_t*>(pages_.bytes().data());
  return std::atomic_ref(words[word]).load(std::memory_order_acquire);
}

std::optional<unsigned> Doorbells::index_of(std::uint64_t word) const {
  const std::uint64_t index = word >> stride_;
  if (index << stride_ != word || index >= count) return std::nullopt;
  return static_cast<unsigned>(index);
}

void Doorbells::store(unsigned index, std::uint32_t value) {
  auto* words = reinterpret_cast<std::uint32_t*>(pages_.bytes().data());
  std::atomic_ref(words[std::uint64_t{index} << stride_]).store(value, std::memory_order_release);
}

void Doorbells::clear() {
  for (unsigned i = 0; i < count; ++i) store(i, 0);
}

} // namespace smartio::sim::nvme
