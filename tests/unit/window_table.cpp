// The table of windows: what a range holds, cuts and touches, up to both ends of the addresses.
#include "window_table.hpp"
#include "catch.hpp"
#include "device.hpp"

#include <vector>

using namespace smartio;

namespace {

using Table = WindowTable<char>;

template <class Found> std::vector<char> values(const Found& found) {
  std::vector<char> all;
  for (const auto& [start, window] : found) all.push_back(window.value);
  return all;
}

/// a: the first page; b: two pages from 0x3000; c: the last page there is.
Table three() {
  Table table;
  CHECK(table.add(0, 0x1000, 'a'));
  CHECK(table.add(0x3000, 0x2000, 'b'));
  CHECK(table.add(UINT64_MAX - 0xfff, 0x1000, 'c'));
  return table;
}

using Values = std::vector<char>;

} // namespace

TEST_CASE("a range overlaps the windows that have a byte in it, and holds those that begin in it") {
  struct Row {
    AddressRange range;
    Values overlapping, beginning;
  };
  const std::vector<Row> rows{
      {AddressRange::all(), {'a', 'b', 'c'}, {'a', 'b', 'c'}},
      {{1, 0}, {}, {}},
      {{0x3800, 0x3000}, {}, {}},
      {{0, 0}, {'a'}, {'a'}},
      {{0xfff, 0xfff}, {'a'}, {}},
      {{0x1000, 0x2fff}, {}, {}},
      {{0x1000, 0x3000}, {'b'}, {'b'}},
      {{0x4fff, 0x8000}, {'b'}, {}},
      {{0x5000, 0x8000}, {}, {}},
      {{0xfff, 0x3000}, {'a', 'b'}, {'b'}},
      {{UINT64_MAX, UINT64_MAX}, {'c'}, {}},
      {{0x5000, UINT64_MAX}, {'c'}, {'c'}},
  };
  auto table = three();
  for (const auto& row : rows) {
    CAPTURE(row.range.first, row.range.last);
    CHECK(values(table.overlapping(row.range)) == row.overlapping);
    CHECK(values(table.beginning_in(row.range)) == row.beginning);
    CHECK(values(std::as_const(table).overlapping(row.range)) == row.overlapping);
  }
}

TEST_CASE("the bytes of a table are those of its windows") {
  auto table = three();
  CHECK(table.bytes() == 0x4000);
  CHECK_FALSE(table.add(0x3000, 0x1000, 'd'));
  CHECK(table.bytes() == 0x4000);
  table.erase(0x1000);
  CHECK(table.bytes() == 0x4000);
  table.erase(0x3000);
  CHECK(table.bytes() == 0x2000);
  CHECK(*table.find(0) == 'a');
  CHECK(table.find(0x3000) == nullptr);
  table.erase(table.beginning_in(AddressRange::all()));
  CHECK(table.empty());
  CHECK(table.bytes() == 0);
  table = three();
  table.clear();
  CHECK(table.bytes() == 0);
}

TEST_CASE("a range contains what lies in it as a whole") {
  const AddressRange range{0x1000, 0x2fff};
  CHECK(range.contains({0x1000, 0x2fff}));
  CHECK_FALSE(range.contains({0xfff, 0x2fff}));
  CHECK_FALSE(range.contains({0x1000, 0x3000}));
  CHECK(range.overlaps({0x2fff, 0x5000}));
  CHECK(range.overlaps({0, 0x1000}));
  CHECK_FALSE(range.overlaps({0, 0xfff}));
  CHECK_FALSE(range.overlaps({0x3000, 0x3fff}));
}

TEST_CASE("what is unmapped is a range, also where it is nothing, everything, or reaches beyond the addresses") {
  const auto in = [](vfio::DmaUnmap unmap) {
    auto table = three();
    return values(table.beginning_in(vfio::range_of(unmap)));
  };
  CHECK(in({Iova{0}, 0}).empty());
  CHECK(in({Iova{0x3000}, 0}).empty());
  CHECK(in({Iova{0x3000}, 1}) == Values{'b'});
  CHECK(in({Iova{0}, 0x3000}) == Values{'a'});
  CHECK(in({Iova{0}, 0, true}) == Values{'a', 'b', 'c'});
  CHECK(in({Iova{0x1000}, UINT64_MAX}) == Values{'b', 'c'});
}
