// Filters in lspci's syntax.
#include "host/filter.hpp"

#include "catch.hpp"
#include "checks.hpp"

using namespace smartio;
using namespace smartio::vfio::host;
using testing::fails_with;

namespace {

Function some(std::string_view bdf, std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code) {
  return {.bdf = *parse_bdf(bdf), .vendor = vendor, .device = device, .class_code = class_code};
}

const Function drive = some("0000:06:00.0", 0x8086, 0xf1a5, 0x010802);
const Function screen = some("0000:01:00.0", 0x10de, 0x128b, 0x030000);
const Function sound = some("0001:01:00.1", 0x10de, 0x0e0f, 0x040300);

/// Which of drive, screen and sound match, as letters.
std::string matching(std::string_view id, std::string_view slot) {
  const auto filter = Filter::parse(id, slot);
  if (!filter) return "refused";
  std::string letters;
  if (filter->matches(drive)) letters += 'd';
  if (filter->matches(screen)) letters += 'v';
  if (filter->matches(sound)) letters += 's';
  return letters;
}

} // namespace

TEST_CASE("filters mean what they mean to lspci") {
  const auto [id, slot, expected] = GENERATE(table<const char*, const char*, const char*>({
      {"::0108", "", "d"},
      {"::0108:02", "", "d"},
      {"::0108:01", "", ""},
      {"::01xx", "", "d"},
      {"10de::", "", "vs"},
      {"10de:", "", "vs"},
      {"10DE:128b", "", "v"},
      {":f1a5", "", "d"},
      {"*:*:0300", "", "v"},
      {"", "1:", "vs"},
      {"", "0:1:", "v"},
      {"", ".1", "s"},
      {"", "0000:06:00.0", "d"},
      {"", "*:*.0", "dv"},
      {"10de::0403", "1:", "s"},
      {"8086:f1a5:0108:02", "6:", "d"},
      {"8086::", "1:", ""},
      {":", "", "dvs"},
  }));
  CAPTURE(id, slot);
  CHECK(matching(id, slot) == expected);
}

TEST_CASE("a filter that lspci would not understand is refused") {
  const auto [id, slot] = GENERATE(table<std::string, std::string>({
      {"", ""},
      {"8086", ""},
      {"18086:", ""},
      {"::10108", ""},
      {"::0108:100", ""},
      {"xyz:", ""},
      {"1:2:3:4:5", ""},
      {"", "::0108"},
      {"", "100:"},
      {"", "20"},
      {"", "0.8"},
      {"", "a:b:c:d"},
      {"", "80000000::"},
      {std::string(100, '1') + ":", ""},
      {std::string("8086:\0x", 7), ""},
  }));
  CAPTURE(id, slot);
  CHECK(fails_with(Filter::parse(id, slot), Errc::bad_request));
}

TEST_CASE("what is said of a filter is one line") {
  const auto filter = Filter::parse("x\ny:", "");
  REQUIRE(!filter);
  CHECK(filter.error().context.find('\n') == std::string::npos);
}

TEST_CASE("a class given as a slot is told to be one") {
  const auto filter = Filter::parse("", "::0108");
  REQUIRE(!filter);
  CHECK(filter.error().context.ends_with("A class is given with -d."));
}
