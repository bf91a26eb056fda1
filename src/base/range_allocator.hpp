// Picks address ranges: which IOVA a DMA window gets, which part of an aperture. Pure bookkeeping; what the ranges mean
// is the caller's business.
#pragma once

#include "page.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace smartio {

/// Ranges are of `size` bytes, more than 0, and may end at 2^64 but not beyond; others are treated as not to be had.
class RangeAllocator {
public:
  struct Range {
    std::uint64_t start, size;
  };

  /// Allocates from `allowed`, never from what overlaps `reserved`.
  RangeAllocator(const std::vector<Range>& allowed, const std::vector<Range>& reserved);

  /// A range of `size` bytes at a multiple of `alignment` (a power of two), from the smallest gap that holds it, as low
  /// as possible within the gap; nullopt if there is none.
  std::optional<std::uint64_t> allocate(std::uint64_t size, std::uint64_t alignment);

  /// Takes exactly this range, within the allowed ones or not. False if it overlaps one in use or reserved.
  bool reserve(std::uint64_t start, std::uint64_t size);

  /// Frees a range that was allocated or reserved at `start`; false, and nothing changed, if there is none.
  bool release(std::uint64_t start);

private:
  struct Taken {
    std::uint64_t last; // inclusive: 2^64 does not fit
    bool permanent;
  };
  std::vector<Range> allowed_;
  std::map<std::uint64_t, Taken> taken_; // by first address; disjoint
};

/// The clients of a device that is lent as shared are in one IOMMU domain: each has a slice of the IOVAs to itself.
/// Slice `n` begins at n * iova_slice_size; together they end at 2^39, the smallest address width of an IOMMU.
inline constexpr unsigned iova_slices = 32;
inline constexpr std::uint64_t iova_slice_size = 1ULL << 34; // 16 GiB
static_assert(iova_slices * iova_slice_size == 1ULL << 39);

/// Whether `size` bytes at `start` lie within slice `slice`; no sum that could wrap.
constexpr bool in_iova_slice(unsigned slice, std::uint64_t start, std::uint64_t size) {
  return start / iova_slice_size == slice && size <= iova_slice_size - start % iova_slice_size;
}

/// Addresses that an IOMMU translates for a device; the ones between such ranges are reserved.
struct IovaRange {
  std::uint64_t first, last; ///< inclusive
  bool operator==(const IovaRange&) const = default;
};

/// The reserved range that [start, start+size) overlaps, the lowest; none where it lies within one of `usable`, or
/// nothing is known of them (empty). They ascend and do not touch; the other range ends at 2^64 or before.
std::optional<IovaRange> reserved_range(const std::vector<IovaRange>& usable, std::uint64_t start, std::uint64_t size);

/// For IOVAs of slice `slice` (below iova_slices), or of all of them, as far as they are usable (empty: all): from 4
/// KiB on, without the interrupt addresses of x86, 0xfee00000-0xfeefffff (Intel SDM volume 3, 11.11.1), which no IOMMU
/// translates.
RangeAllocator iova_allocator(std::optional<unsigned> slice = {}, const std::vector<IovaRange>& usable = {});

/// What an IOVA of `size` bytes is aligned to: 2 MiB for those that can use large IOMMU pages, else 4 KiB.
constexpr std::uint64_t iova_alignment(std::uint64_t size) {
  return size >= huge_page_size ? huge_page_size : page_size;
}

} // namespace smartio
