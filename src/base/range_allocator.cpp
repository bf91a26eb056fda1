#include "range_allocator.hpp"

#include <algorithm>

namespace smartio {
namespace {

constexpr bool valid(std::uint64_t start, std::uint64_t size) { return size > 0 && size - 1 <= UINT64_MAX - start; }

constexpr std::uint64_t last_of(std::uint64_t start, std::uint64_t size) { return start + (size - 1); }

// Where `size` bytes fit in [first, last], aligned; nullopt if nowhere.
std::optional<std::uint64_t> fit(std::uint64_t first, std::uint64_t last, std::uint64_t size, std::uint64_t alignment) {
  const std::uint64_t padding = (alignment - (first & (alignment - 1))) & (alignment - 1);
  if (last < first || padding > last - first || size - 1 > last - first - padding) return std::nullopt;
  return first + padding;
}

} // namespace

RangeAllocator::RangeAllocator(const std::vector<Range>& allowed, const std::vector<Range>& reserved) {
  std::ranges::copy_if(allowed, std::back_inserter(allowed_),
                       [](Range range) { return valid(range.start, range.size); });
  std::vector<Range> sorted;
  std::ranges::copy_if(reserved, std::back_inserter(sorted),
                       [](Range range) { return valid(range.start, range.size); });
  std::ranges::sort(sorted, {}, &Range::start);
  for (const Range range : sorted) { // overlapping ones become one
    const std::uint64_t last = last_of(range.start, range.size);
    if (!taken_.empty() && taken_.rbegin()->second.last >= range.start)
      taken_.rbegin()->second.last = std::max(taken_.rbegin()->second.last, last);
    else
      taken_[range.start] = {last, true};
  }
}

std::optional<std::uint64_t> RangeAllocator::allocate(std::uint64_t size, std::uint64_t alignment) {
  if (size == 0) return std::nullopt;
  std::optional<std::uint64_t> best;
  std::uint64_t best_gap = UINT64_MAX;
  const auto offer = [&best, &best_gap, size, alignment](std::uint64_t first, std::uint64_t last) {
    const auto start = fit(first, last, size, alignment);
    if (!start || (best && last - first >= best_gap)) return;
    best = start;
    best_gap = last - first;
  };
  for (const Range range : allowed_) {
    const std::uint64_t end = last_of(range.start, range.size);
    std::uint64_t first = range.start;
    bool open = true; // [first, end] is not used up
    auto next = taken_.upper_bound(first);
    if (next != taken_.begin()) --next;
    for (; open && next != taken_.end() && next->first <= end; ++next) {
      if (next->second.last < first) continue;
      if (next->first > first) offer(first, next->first - 1);
      open = next->second.last < end;
      first = next->second.last + 1;
    }
    if (open) offer(first, end);
  }
  if (best) taken_[*best] = {last_of(*best, size), false};
  return best;
}

bool RangeAllocator::reserve(std::uint64_t start, std::uint64_t size) {
  if (!valid(start, size)) return false;
  const std::uint64_t last = last_of(start, size);
  auto after = taken_.upper_bound(last);
  if (after != taken_.begin() && std::prev(after)->second.last >= start) return false;
  taken_[start] = {last, false};
  return true;
}

bool RangeAllocator::release(std::uint64_t start) {
  const auto found = taken_.find(start);
  if (found == taken_.end() || found->second.permanent) return false;
  taken_.erase(found);
  return true;
}

std::optional<IovaRange> reserved_range(const std::vector<IovaRange>& usable, std::uint64_t start, std::uint64_t size) {
  if (usable.empty()) return std::nullopt;
  const auto last = last_of(start, size);
  std::uint64_t begin = 0; // of what is reserved before the next usable range
  for (const auto& range : usable) {
    if (begin < range.first && start < range.first) return IovaRange{begin, range.first - 1};
    if (last <= range.last) return std::nullopt;
    begin = range.last + 1;
  }
  return IovaRange{begin, UINT64_MAX};
}

RangeAllocator iova_allocator(std::optional<unsigned> slice, const std::vector<IovaRange>& usable) {
  const std::uint64_t first = slice.value_or(0) * iova_slice_size;
  const std::uint64_t end = slice ? first + iova_slice_size : iova_slices * iova_slice_size;
  const std::uint64_t start = std::max<std::uint64_t>(first, page_size);
  std::vector<RangeAllocator::Range> allowed;
  if (usable.empty()) allowed = {{.start = start, .size = end - start}};
  for (const auto& range : usable) {
    const auto from = std::max(range.first, start), last = std::min(range.last, end - 1);
    if (from <= last) allowed.push_back({.start = from, .size = last - from + 1});
  }
  return RangeAllocator(allowed, {{.start = 0xfee00000, .size = 0x100000}});
}

} // namespace smartio
