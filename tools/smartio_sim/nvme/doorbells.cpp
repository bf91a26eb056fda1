#include "doorbells.hpp"

#include "result.hpp"

#include <atomic>
#include <fcntl.h>

namespace smartio::sim::nvme {

Result<Doorbells> Doorbells::open() {
  constexpr std::size_t file_size = register_offset::doorbells + page_size;
  auto fd = TRY(make_memfd("nvme-doorbells", file_size));
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return fail_errno(errno, "seal the doorbell page");
  auto page = TRY(Mapping::map(fd.get(), register_offset::doorbells, page_size));
  return Doorbells(std::move(fd), std::move(page));
}

std::uint32_t Doorbells::load(unsigned index) const {
  auto* words = reinterpret_cast<std::uint32_t*>(page_.bytes().data());
  return std::atomic_ref(words[index]).load(std::memory_order_acquire);
}

void Doorbells::store(unsigned index, std::uint32_t value) {
  auto* words = reinterpret_cast<std::uint32_t*>(page_.bytes().data());
  std::atomic_ref(words[index]).store(value, std::memory_order_release);
}

void Doorbells::clear() {
  for (unsigned i = 0; i < page_size / 4; ++i) store(i, 0);
}

} // namespace smartio::sim::nvme
