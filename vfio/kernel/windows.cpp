#include "windows.hpp"

#include <algorithm>
#include <cerrno>

namespace smartio::vfio::kernel {
namespace {

bool has(const Window& window, unsigned member) {
  return std::ranges::find(window.members, member) != window.members.end();
}

bool alike(const Window& a, const Window& b) {
  return a.size == b.size && a.access == b.access && a.file && a.file == b.file;
}

std::uint64_t last(std::uint64_t iova, std::uint64_t size) { return iova + (size - 1); }

} // namespace

Windows::Room Windows::room(unsigned member, std::uint64_t iova, const Window& window) const {
  auto next = windows_.upper_bound(last(iova, window.size));
  if (next == windows_.begin()) return Room::free;
  const auto& [start, found] = *--next;
  if (last(start, found.size) < iova) return Room::free;
  return start == iova && alike(found, window) && !has(found, member) ? Room::same : Room::taken;
}

Window& Windows::add(std::uint64_t iova, Window window) {
  pieces_ += window.pieces();
  return windows_.emplace(iova, std::move(window)).first->second;
}

void Windows::remove(std::uint64_t iova) {
  pieces_ -= windows_.at(iova).pieces();
  windows_.erase(iova);
}

Outcome<std::vector<std::uint64_t>> Windows::within(unsigned member, std::uint64_t iova, std::uint64_t size) const {
  std::vector<std::uint64_t> found;
  auto next = windows_.upper_bound(iova);
  if (next != windows_.begin()) --next;
  for (; next != windows_.end() && next->first <= last(iova, size); ++next) {
    const auto& [start, window] = *next;
    const auto end = last(start, window.size);
    if (!has(window, member) || end < iova) continue;
    if (start < iova || end > last(iova, size)) return std::unexpected(EINVAL);
    found.push_back(start);
  }
  return found;
}

std::vector<std::uint64_t> Windows::of(unsigned member) const {
  std::vector<std::uint64_t> found;
  for (const auto& [start, window] : windows_)
    if (has(window, member)) found.push_back(start);
  return found;
}

std::uint64_t Windows::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [start, window] : windows_) sum += window.reachable ? window.size : 0;
  return sum;
}

} // namespace smartio::vfio::kernel
