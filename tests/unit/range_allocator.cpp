#include "range_allocator.hpp"

#include "catch.hpp"

using smartio::in_iova_slice;
using smartio::iova_alignment;
using smartio::iova_allocator;
using smartio::iova_slice_size;
using smartio::iova_slices;
using smartio::RangeAllocator;

TEST_CASE("ranges are allocated from the bottom, aligned and disjoint") {
  RangeAllocator ranges({{0x1000, 0x10000}}, {});
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x1000);
  CHECK(ranges.allocate(0x1000, 0x4000) == 0x4000);
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x2000);
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x5000);
}

TEST_CASE("the smallest gap that fits is used, so that large ones stay whole") {
  RangeAllocator ranges({{0, 0x10000}, {0x100000, 0x3000}}, {});
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x100000);
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x102000);
  CHECK(ranges.allocate(0x10000, 0x1000) == 0x0);
}

TEST_CASE("a gap that is large enough only without its alignment is not used") {
  RangeAllocator ranges({{0x1000, 0x2000}, {0x10000, 0x100000}}, {});
  CHECK(ranges.allocate(0x2000, 0x2000) == 0x10000);
  CHECK(ranges.allocate(0x1000, 0x2000) == 0x2000);
}

TEST_CASE("reserved ranges are never allocated nor taken") {
  RangeAllocator ranges({{0x1000, 0x5000}}, {{0x2000, 0x1000}, {0x2800, 0x1800}, {0x0, 0x1000}});
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x4000);
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x1000);
  CHECK(ranges.allocate(0x1000, 0x1000) == std::nullopt);
  CHECK_FALSE(ranges.reserve(0x2000, 0x1000));
  CHECK_FALSE(ranges.reserve(0x3fff, 1));
  CHECK_FALSE(ranges.release(0x2000));
}

TEST_CASE("a reserved range within another takes nothing away from that") {
  RangeAllocator ranges({{0x1000, 0x5000}}, {{0x2000, 0x3000}, {0x2800, 0x100}});
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x1000);
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x5000);
  CHECK_FALSE(ranges.reserve(0x4fff, 1));
}

TEST_CASE("a named range is refused exactly when it overlaps another") {
  RangeAllocator ranges({{0x1000, 0x10000}}, {});
  REQUIRE(ranges.reserve(0x4000, 0x2000));
  CHECK_FALSE(ranges.reserve(0x4000, 0x2000));
  CHECK_FALSE(ranges.reserve(0x3000, 0x1001));
  CHECK_FALSE(ranges.reserve(0x5fff, 0x1000));
  CHECK_FALSE(ranges.reserve(0x0, 0x20000));
  CHECK(ranges.reserve(0x3000, 0x1000));
  CHECK(ranges.reserve(0x6000, 0x1000));
  CHECK(ranges.reserve(0x1'0000'0000, 0x1000)); // outside of what is allocated from
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x1000);
  CHECK(ranges.allocate(0xa000, 0x1000) == 0x7000);
}

TEST_CASE("a released range can be had again, once") {
  RangeAllocator ranges({{0x1000, 0x3000}}, {});
  REQUIRE(ranges.allocate(0x1000, 0x1000) == 0x1000);
  REQUIRE(ranges.allocate(0x2000, 0x1000) == 0x2000);
  CHECK(ranges.allocate(0x1000, 0x1000) == std::nullopt);
  CHECK(ranges.release(0x2000));
  CHECK_FALSE(ranges.release(0x2000));
  CHECK_FALSE(ranges.release(0x3000));
  CHECK(ranges.allocate(0x2000, 0x1000) == 0x2000);
}

TEST_CASE("sizes of zero, sums that wrap and the end of the address space are handled") {
  RangeAllocator ranges({{UINT64_MAX - 0xfff, 0x1000}, {0x1000, UINT64_MAX}, {0x1000, 0}}, {{UINT64_MAX, 2}});
  CHECK(ranges.allocate(0, 1) == std::nullopt);
  CHECK_FALSE(ranges.reserve(0x1000, 0));
  CHECK_FALSE(ranges.reserve(UINT64_MAX - 0xfff, 0x1001));
  CHECK_FALSE(ranges.reserve(UINT64_MAX, UINT64_MAX));
  CHECK(ranges.allocate(UINT64_MAX, 1) == std::nullopt);
  CHECK(ranges.allocate(0x1000, 0x1000) == UINT64_MAX - 0xfff);
  CHECK(ranges.allocate(1, 1) == std::nullopt);
}

TEST_CASE("IOVAs avoid page 0 and the interrupt addresses, and end below 2^39") {
  auto ranges = iova_allocator();
  CHECK_FALSE(ranges.reserve(0xfee00000, 0x1000));
  CHECK_FALSE(ranges.reserve(0xfed00000, 0x200000));
  CHECK(ranges.allocate(0x1000, 0x1000) == 0x1000);
  CHECK(ranges.allocate(0xfee00000, iova_alignment(0xfee00000)) == 0xff000000);
  CHECK(ranges.allocate(1ULL << 39, 0x1000) == std::nullopt);
  CHECK(iova_alignment(0x1ff000) == 0x1000);
  CHECK(iova_alignment(0x200000) == 0x200000);
}

TEST_CASE("of a range of IOVAs the part is told that is reserved, the lowest") {
  using smartio::IovaRange;
  using smartio::reserved_range;
  const std::vector<IovaRange> usable{{0x1000, 0x1fff}, {0x4000, 0x5fff}, {0x8000, UINT64_MAX - 1}};
  struct Row {
    std::uint64_t start, size;
    std::optional<IovaRange> reserved;
  };
  const IovaRange low{0, 0xfff}, middle{0x2000, 0x3fff}, next{0x6000, 0x7fff}, end{UINT64_MAX, UINT64_MAX};
  for (const auto& row : {Row{0, 1, low}, Row{0xfff, 0x10000, low}, Row{0x1000, 0x1000, {}}, Row{0x1fff, 2, middle},
                          Row{0x3fff, 2, middle}, Row{0x4000, 0x2000, {}}, Row{0x4000, 0x2001, next},
                          Row{0x7000, 0x100, next}, Row{0x8000, UINT64_MAX - 0x8000, {}}, Row{UINT64_MAX, 1, end}}) {
    INFO(std::hex << row.start << "+" << row.size);
    CHECK(reserved_range(usable, row.start, row.size) == row.reserved);
  }
  CHECK(reserved_range({}, 0, 1) == std::nullopt);
  CHECK(reserved_range({{0, UINT64_MAX}}, UINT64_MAX, 1) == std::nullopt);
}

TEST_CASE("IOVAs are of the slice and usable") {
  auto ranges = iova_allocator(1, {{0, iova_slice_size + 0xfff}, {iova_slice_size + 0x8000, iova_slice_size + 0x9fff}});
  CHECK(ranges.allocate(0x1000, 0x1000) == iova_slice_size);
  CHECK(ranges.allocate(0x2000, 0x1000) == iova_slice_size + 0x8000);
  CHECK(ranges.allocate(0x1000, 0x1000) == std::nullopt);
}

TEST_CASE("the slices of the IOVAs are whole, disjoint, and together all there are") {
  std::uint64_t end = 0x1000; // of the slices before
  for (unsigned slice = 0; slice < iova_slices; ++slice) {
    auto ranges = iova_allocator(slice);
    std::uint64_t bytes = slice == 0 ? 0x1000 : 0;
    if (slice == 0) {
      CHECK_FALSE(ranges.reserve(0xfee00000, 0x1000));
      CHECK(ranges.allocate(0xfee00000 - 0x1000, 0x1000) == 0x1000);
      end = 0xfef00000;
      bytes = end;
    }
    CHECK(ranges.allocate(iova_slice_size - bytes + 1, 1) == std::nullopt);
    CHECK(ranges.allocate(iova_slice_size - bytes, 1) == end);
    CHECK(ranges.allocate(1, 1) == std::nullopt);
    end += iova_slice_size - bytes;
  }
  CHECK(end == 1ULL << 39);
}

TEST_CASE("what lies in a slice, to the byte, and sums that wrap") {
  constexpr std::uint64_t start = 3 * iova_slice_size, end = 4 * iova_slice_size;
  CHECK(in_iova_slice(3, start, iova_slice_size));
  CHECK(in_iova_slice(3, end - 1, 1));
  CHECK_FALSE(in_iova_slice(3, start - 1, 1));
  CHECK_FALSE(in_iova_slice(3, start - 1, 2));
  CHECK_FALSE(in_iova_slice(3, end, 1));
  CHECK_FALSE(in_iova_slice(3, end - 1, 2));
  CHECK_FALSE(in_iova_slice(3, start, UINT64_MAX));
  CHECK_FALSE(in_iova_slice(3, start + 1, UINT64_MAX - start + 1));
  CHECK_FALSE(in_iova_slice(0, UINT64_MAX, 1));
  CHECK(in_iova_slice(0, 0, 1)); // a virtual machine's first page
  CHECK_FALSE(in_iova_slice(0, 0, 1ULL << 39));
}
