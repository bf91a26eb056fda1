// Mappings of registers that are taken away: ones in their place, at the same addresses, whatever their size.
#include "mapping.hpp"
#include "catch.hpp"
#include "fd.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

using namespace smartio;

namespace {

constexpr std::uint64_t page = 4096, gib = 1ULL << 30;

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * page;
}

/// Whether this process maps the memory file of that name.
bool is_mapped(const std::string& name) {
  std::ifstream file("/proc/self/maps");
  const std::string maps(std::istreambuf_iterator<char>(file), {});
  return maps.find("/memfd:" + name + " ") != std::string::npos;
}

std::uint64_t word(const Mapping& mapping, std::size_t at) {
  std::uint64_t value = 0;
  std::memcpy(&value, mapping.bytes().data() + at, sizeof value);
  return value;
}

void store(const Mapping& mapping, std::size_t at, std::uint64_t value) {
  std::memcpy(mapping.bytes().data() + at, &value, sizeof value);
}

} // namespace

TEST_CASE("what takes the place of registers is ones to the last byte, and stores reach the registers no more") {
  for (const std::size_t size : {page, 3 * page, 512 * page, 513 * page, 4 * 512 * page + page}) {
    INFO(size);
    const auto registers = make_memfd("registers", size).value();
    const auto seen = Mapping::map(registers.get(), 0, size).value();
    auto mapping = Mapping::map(registers.get(), 0, size).value();
    store(mapping, 0, 7);
    store(mapping, size - 8, 9);
    const auto* before = mapping.bytes().data();
    REQUIRE(mapping.replace_by_ones());
    CHECK(mapping.bytes().data() == before);
    CHECK(std::ranges::all_of(mapping.bytes(), [](std::byte byte) { return byte == std::byte{0xff}; }));
    store(mapping, 0, 1);
    store(mapping, size - 8, 1);
    CHECK(word(seen, 0) == 7);
    CHECK(word(seen, size - 8) == 9);
    auto again = Mapping::map(registers.get(), 0, size).value();
    REQUIRE(again.replace_by_ones());
    CHECK(word(again, 0) == UINT64_MAX); // what was stored in place of registers is seen there alone
  }
}

TEST_CASE("registers larger than memory are replaced with little of it") {
  constexpr std::size_t size = 128 * gib;
  const auto registers = make_memfd("registers", size).value(); // holes: nobody touches it
  auto mapping = Mapping::map(registers.get(), 0, size).value();
  const auto before = resident_bytes();
  REQUIRE(mapping.replace_by_ones());
  for (const std::size_t at : {std::size_t{0}, 5 * gib + 8, size / 2, size - 8}) CHECK(word(mapping, at) == UINT64_MAX);
  store(mapping, 0, 3);
  CHECK(word(mapping, 32 * 1024 * 1024) == UINT64_MAX); // the next piece
  CHECK(resident_bytes() < before + gib / 4);
}

TEST_CASE("a mapping that another takes the place of is gone, and keeps its file no longer") {
  const auto old = make_memfd("old", page).value(), fresh = make_memfd("fresh", page).value();
  auto mapping = Mapping::map(old.get(), 0, page).value();
  REQUIRE(is_mapped("old"));
  mapping = Mapping::map(fresh.get(), 0, page).value();
  CHECK_FALSE(is_mapped("old"));
  CHECK(is_mapped("fresh"));
}

TEST_CASE("ranges beyond a file, and sums that would wrap, are outside") {
  CHECK(in_range(0, 0, 0));
  CHECK(in_range(page, page, 2 * page));
  CHECK_FALSE(in_range(page + 1, page, 2 * page));
  CHECK_FALSE(in_range(2 * page, 1, 2 * page));
  CHECK_FALSE(in_range(UINT64_MAX, 2, 2 * page));
  CHECK_FALSE(in_range(2, UINT64_MAX, UINT64_MAX));
  CHECK(in_range(0, UINT64_MAX, UINT64_MAX));
}
