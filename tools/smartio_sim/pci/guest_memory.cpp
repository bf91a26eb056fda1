#include "guest_memory.hpp"

#include "page.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace smartio::sim {

namespace {

bool allows(Access granted, Access wanted) {
  return (static_cast<unsigned>(granted) & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
}

bool in_pages(std::uint64_t value) { return value % page_size == 0; }

} // namespace

std::expected<void, int> GuestMemory::map(vfio::DmaMap request) {
  const auto first = static_cast<std::uint64_t>(request.iova);
  const auto access = static_cast<unsigned>(request.access);
  if (request.size == 0 || !in_pages(request.size) || !in_pages(first) || !in_pages(request.offset))
    return std::unexpected(EINVAL);
  const std::uint64_t last = first + (request.size - 1);
  if (last < first || access == 0 || access > 3) return std::unexpected(EINVAL);
  if (overlaps(first, last)) return std::unexpected(EEXIST);
  if (windows_.size() >= max_windows) return std::unexpected(ENOSPC);
  Window window{request.size, request.access, {}};
  if (request.fd) {
    auto piece = files_.map(request.fd, request.offset, request.size, allows(request.access, Access::write));
    if (!piece) return std::unexpected(piece.error());
    window.piece = std::move(*piece);
  }
  windows_.emplace(first, std::move(window));
  return {};
}

bool GuestMemory::overlaps(std::uint64_t first, std::uint64_t last) const {
  const auto after = windows_.upper_bound(last);
  if (after == windows_.begin()) return false;
  const auto& [start, window] = *std::prev(after);
  return start + (window.size - 1) >= first;
}

std::expected<std::uint64_t, int> GuestMemory::unmap(const vfio::DmaUnmap& request) {
  std::uint64_t first = static_cast<std::uint64_t>(request.iova);
  if (request.all ? first != 0 || request.size != 0 : request.size == 0) return std::unexpected(EINVAL);
  const std::uint64_t last = request.all ? UINT64_MAX : first + (request.size - 1);
  if (last < first) return std::unexpected(EINVAL);
  const auto begin = windows_.lower_bound(first), end = windows_.upper_bound(last);
  if (begin != windows_.begin()) {
    const auto& [start, window] = *std::prev(begin);
    if (start + (window.size - 1) >= first) return std::unexpected(EINVAL);
  }
  std::uint64_t bytes = 0;
  for (auto at = begin; at != end; ++at) {
    if (at->first + (at->second.size - 1) > last) return std::unexpected(EINVAL);
    bytes += at->second.size;
  }
  windows_.erase(begin, end);
  return bytes;
}

GuestMemory::Place GuestMemory::find(std::uint64_t address, std::uint64_t bytes, Access access) const {
  const auto after = windows_.upper_bound(address);
  if (after == windows_.begin()) return {};
  const auto& [start, window] = *std::prev(after);
  const std::uint64_t offset = address - start;
  if (offset >= window.size || !window.piece.data || !allows(window.access, access)) return {};
  return {window.piece.data + offset, std::min(bytes, window.size - offset), window.piece.file->sealed};
}

bool GuestMemory::read(std::uint64_t address, std::span<std::byte> to) const {
  while (!to.empty()) {
    const Place place = find(address, to.size(), Access::read);
    if (place.bytes == 0 || !copy_in(to.first(place.bytes), place.data, place.sealed)) return false;
    to = to.subspan(place.bytes);
    address += place.bytes;
  }
  return true;
}

bool GuestMemory::write(std::uint64_t address, std::span<const std::byte> from) {
  while (!from.empty()) {
    const Place place = find(address, from.size(), Access::write);
    if (place.bytes == 0 || !copy_out(place.data, from.first(place.bytes), place.sealed)) return false;
    from = from.subspan(place.bytes);
    address += place.bytes;
  }
  return true;
}

bool GuestMemory::post(std::uint64_t address, std::span<const std::byte, 16> entry) {
  constexpr std::size_t head = 12;
  const Place place = find(address, entry.size(), Access::write);
  if (place.bytes != entry.size()) return false;
  if (!copy_out(place.data, entry.first(head), place.sealed)) return false;
  if (!place.sealed) return copy_out(place.data + head, entry.subspan(head), false);
  std::uint32_t last = 0;
  std::memcpy(&last, entry.data() + head, sizeof last);
  std::atomic_ref(*reinterpret_cast<std::uint32_t*>(place.data + head)).store(last, std::memory_order_release);
  return true;
}

GuestMemory::Stretch GuestMemory::reach(std::uint64_t address, std::uint64_t bytes, Access access) const {
  const auto after = windows_.upper_bound(address);
  if (after != windows_.begin()) {
    const auto& [start, window] = *std::prev(after);
    if (address - start < window.size) {
      const auto here = std::min(bytes, window.size - (address - start));
      if (!allows(window.access, access)) return {Reach::denied, here};
      return {window.piece.data ? Reach::direct : Reach::no_file, here};
    }
  }
  return {Reach::unmapped, after == windows_.end() ? bytes : std::min(bytes, after->first - address)};
}

bool GuestMemory::locate(std::uint64_t address, std::uint64_t bytes, Access access, std::vector<iovec>& pieces) const {
  while (bytes > 0) {
    const Place place = find(address, bytes, access);
    if (place.bytes == 0) return false;
    const bool adjoins =
        !pieces.empty() && static_cast<std::byte*>(pieces.back().iov_base) + pieces.back().iov_len == place.data;
    if (adjoins) {
      pieces.back().iov_len += place.bytes;
    } else {
      pieces.push_back({place.data, place.bytes});
    }
    bytes -= place.bytes;
    address += place.bytes;
  }
  return true;
}

} // namespace smartio::sim
