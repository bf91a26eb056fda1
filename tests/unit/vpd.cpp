// The serial number in vital product data, and what is none.
#include "vpd.hpp"

#include "catch.hpp"
#include "vpd_bytes.hpp"

#include <vector>

using namespace smartio::vfio;
using namespace testing;
using namespace std::string_literals;

namespace {

std::optional<std::string> serial(const std::string& vpd) { return vpd_serial_number(std::as_bytes(std::span(vpd))); }
std::optional<std::string> number(const std::string& data) {
  return serial(vpd_with(field("PN", "X-1") + field("SN", data)));
}

} // namespace

TEST_CASE("the serial number is what stands in the read-only part, without its padding") {
  CHECK(number("MT1842X00123") == "MT1842X00123");
  CHECK(number("  A 1 \0\0"s) == "A 1");
  CHECK(number(std::string(255, 'x')) == std::string(255, 'x'));
  CHECK(number("00A") == "00A");
}

TEST_CASE("a serial number that is empty, cannot be printed or is nothing but zeros is none") {
  for (const auto& data :
       {""s, "    "s, "\0\0\0\0"s, "0000"s, "00 00"s, "A\x1b[2J"s, "A\0B"s, "\xff\xff\xff"s, "\x7f"s})
    CHECK(!number(data));
}

TEST_CASE("data whose checksum is wrong or missing, or does not cover the number, is not believed") {
  const auto whole = vpd_with(field("SN", "A1"));
  for (std::size_t i = 0; i < whole.find("RV") + 4; ++i) {
    auto changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    INFO(i);
    CHECK(!serial(changed));
  }
  CHECK(!serial(item(0x90, field("SN", "A1")) + '\x78'));
  CHECK(!serial(item(0x90, field("SN", "A1") + field("RV", "")) + '\x78'));
  auto behind = item(0x90, field("RV", "\0"s) + field("SN", "A1"));
  behind[6] = static_cast<char>(-(0x90 + behind[1] + behind[2] + 'R' + 'V' + 1));
  CHECK(!serial(behind));
}

TEST_CASE("what follows the read-only part does not matter, and nothing is read beyond the end") {
  const auto whole = vpd_with(field("SN", "A1"));
  const auto part = whole.find("RV") + 8; // its checksum and what is reserved
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    const std::vector<char> bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)); // with a guard
    INFO(size);
    CHECK(vpd_serial_number(std::as_bytes(std::span(bytes))).has_value() == (size >= part));
  }
}

TEST_CASE("lengths that lead past the end, and tags that are no large ones, end it") {
  const auto fields = field("SN", "A1");
  CHECK(!serial("\x82\xff\xff" + vpd_with(fields)));
  CHECK(!serial("\x78" + vpd_with(fields)));
  CHECK(!serial(std::string(4096, '\0')));
  CHECK(!serial(std::string(4096, '\xff')));
  CHECK(!serial(vpd_with("SN\xff"
                         "A1")));
  CHECK(!serial(vpd_with(field("XX", "A1"))));
  CHECK(serial(vpd_with(field("SN", "A1") + field("SN", "B2"))) == "A1");
}
