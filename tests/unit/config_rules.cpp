// What a borrower may write to configuration space, for functions with all kinds of capabilities.
#include "config_rules.hpp"
#include "capabilities.hpp"

#include "catch.hpp"

#include <initializer_list>

using smartio::vfio::capabilities;
using smartio::vfio::Capability;
using smartio::vfio::ConfigRules;
using Bytes = std::vector<std::byte>;
using Writes = std::vector<ConfigRules::Write>;

namespace {

Bytes bytes(std::initializer_list<int> values) {
  Bytes result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

void put(Bytes& config, std::size_t offset, std::initializer_list<int> values) {
  std::ranges::copy(bytes(values), config.begin() + static_cast<std::ptrdiff_t>(offset));
}

/// A function with PM, MSI, VPD, vendor's, PCI Express and MSI-X capabilities at 0x40 to 0xb0, and extended ones: ACS,
/// ATS, resizable BAR, SR-IOV.
Bytes function() {
  Bytes config(4096);
  put(config, 0x06, {0x10});
  put(config, 0x34, {0x40});
  put(config, 0x40, {0x01, 0x50});
  put(config, 0x50, {0x05, 0x68});
  put(config, 0x68, {0x03, 0x70});
  put(config, 0x70, {0x09, 0x80});
  put(config, 0x80, {0x10, 0xc0});
  put(config, 0xc0, {0x11, 0x00});
  put(config, 0x100, {0x0d, 0x00, 0x01, 0x14});
  put(config, 0x140, {0x0f, 0x00, 0x01, 0x18});
  put(config, 0x180, {0x15, 0x00, 0x01, 0x1c});
  put(config, 0x1c0, {0x10, 0x00, 0x01, 0x00});
  return config;
}

/// The bits of `count` bytes at `offset` that a borrower can set where all are 0, and clear where all are 1.
Bytes changeable(const ConfigRules& rules, std::uint64_t offset, std::size_t count) {
  Bytes set(count), cleared(count);
  for (const auto& write : rules.allowed(offset, Bytes(count, std::byte{0xff}), Bytes(count)))
    std::ranges::copy(write.data, set.begin() + static_cast<std::ptrdiff_t>(write.offset - offset));
  for (const auto& write : rules.allowed(offset, Bytes(count), Bytes(count, std::byte{0xff})))
    for (std::size_t i = 0; i < write.data.size(); ++i) cleared[write.offset - offset + i] = ~write.data[i];
  CHECK(set == cleared);
  return set;
}

} // namespace

TEST_CASE("exactly the listed bits can be changed") {
  const auto config = function();
  const auto rules = ConfigRules::parse(config);
  Bytes expected(4096);
  put(expected, 0x04, {0x04, 0x04});                                       // bus master; interrupt disable
  put(expected, 0x0c, {0xff, 0xff});                                       // cache line size, latency timer
  for (std::size_t i = 0x10; i < 0x28; ++i) expected[i] = std::byte{0xff}; // BARs
  put(expected, 0x30, {0xff, 0xff, 0xff, 0xff});                           // expansion ROM
  put(expected, 0x3c, {0xff});                                             // interrupt line
  put(expected, 0x88, {0x10, 0x78}); // relaxed ordering; no snoop, maximum read request
  CHECK(changeable(rules, 0, 4096) == expected);
}

TEST_CASE("bits that are not permitted keep their current value") {
  const auto rules = ConfigRules::parse(function());
  // Memory space on at the lender, off at the borrower, which switches bus mastering on: 0x0002 and 0x0004 give 0x0006.
  CHECK(rules.allowed(0x04, bytes({0x04, 0x00}), bytes({0x02, 0x01})) == Writes{{0x04, bytes({0x06, 0x01})}});
  // Device control: function level reset and a payload size are dropped, a read request size is taken.
  CHECK(rules.allowed(0x88, bytes({0xef, 0xa0}), bytes({0x20, 0x01})) == Writes{{0x88, bytes({0x20, 0x21})}});
}

TEST_CASE("status bits that are cleared by writing ones are not touched by a write beside them") {
  const auto rules = ConfigRules::parse(function());
  CHECK(rules.allowed(0x04, bytes({0x04, 0x00, 0x10, 0xf9}), bytes({0x02, 0x00, 0x10, 0xf9})) ==
        Writes{{0x04, bytes({0x06, 0x00})}});
  CHECK(rules.allowed(0x88, bytes({0x10, 0x00, 0x0f, 0x00}), bytes({0x00, 0x00, 0x0f, 0x00})) ==
        Writes{{0x88, bytes({0x10, 0x00})}});
}

TEST_CASE("a write over several registers becomes one for each run of permitted bytes") {
  const auto rules = ConfigRules::parse(function());
  const Bytes ones(0x24, std::byte{0xff}), zeros(0x24);
  Writes expected{{0x04, bytes({0x04, 0x04})}, {0x0c, bytes({0xff, 0xff})}, {0x10, Bytes(0x18, std::byte{0xff})}};
  CHECK(rules.allowed(0x04, ones, zeros) == expected);
}

TEST_CASE("writes outside the configuration space, or without current values, are dropped") {
  const auto rules = ConfigRules::parse(function());
  const auto one = bytes({0xff});
  CHECK(rules.allowed(4096, one, one).empty());
  CHECK(rules.allowed(UINT64_MAX, one, one).empty());
  CHECK(rules.allowed(0x0d, Bytes(3, std::byte{0xff}), one) == Writes{{0x0d, one}});
  CHECK(rules.allowed(0x10, one, {}).empty());
  CHECK(rules.allowed(0x10, {}, {}).empty());
}

TEST_CASE("a small configuration space has the same rules") {
  auto config = function();
  config.resize(256);
  const auto rules = ConfigRules::parse(config);
  CHECK(changeable(rules, 0x88, 2) == bytes({0x10, 0x78}));
  for (const std::uint64_t offset : {std::uint64_t{0x100}, std::uint64_t{1} << 40, UINT64_MAX - 3})
    CHECK(rules.allowed(offset, Bytes(4, std::byte{0xff}), Bytes(4)).empty());
}

TEST_CASE("nothing may be written to bridges, to a device that is gone, or to what is no configuration space") {
  auto bridge = function();
  put(bridge, 0x0e, {0x01});
  for (const auto& config : {bridge, Bytes(4096, std::byte{0xff}), Bytes(64), Bytes()}) {
    const auto rules = ConfigRules::parse(config);
    CHECK(changeable(rules, 0, 4096) == Bytes(4096));
  }
}

TEST_CASE("a multifunction device has a header like any other") {
  auto config = function();
  put(config, 0x0e, {0x80});
  CHECK(changeable(ConfigRules::parse(config), 0x04, 2) == bytes({0x04, 0x04}));
}

TEST_CASE("both lists of capabilities are found in order") {
  const auto found = capabilities(function());
  const std::vector<Capability> expected{
      {0x01, 0x40, false}, {0x05, 0x50, false}, {0x03, 0x68, false}, {0x09, 0x70, false}, {0x10, 0x80, false},
      {0x11, 0xc0, false}, {0x0d, 0x100, true}, {0x0f, 0x140, true}, {0x15, 0x180, true}, {0x10, 0x1c0, true}};
  CHECK(found == expected);
}

TEST_CASE("a serial number is read as lspci shows it, and all zeros or ones are none") {
  auto config = function();
  CHECK(smartio::vfio::device_serial_number(config) == std::nullopt); // the first list's 3 is something else
  put(config, 0x180, {0x03, 0x00, 0x01, 0x1c, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00});
  CHECK(smartio::vfio::device_serial_number(config) == "00-11-22-33-44-55-66-77");
  for (const int byte : {0x00, 0xff}) {
    put(config, 0x184, {byte, byte, byte, byte, byte, byte, byte, byte});
    CHECK(smartio::vfio::device_serial_number(config) == std::nullopt);
  }
  put(config, 0x184, {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01});
  CHECK(smartio::vfio::device_serial_number(config) == "01-00-00-00-00-00-00-00");
  config.resize(256);
  CHECK(smartio::vfio::device_serial_number(config) == std::nullopt);
}

TEST_CASE("lists of capabilities that run in circles or out of range end") {
  auto config = function();
  put(config, 0xc0, {0x11, 0x40});              // back to the first
  put(config, 0x1c0, {0x10, 0x00, 0x01, 0x10}); // likewise
  CHECK(capabilities(config).size() == 10);
  put(config, 0x50, {0x05, 0x3c});              // into the header
  put(config, 0x140, {0x0f, 0x00, 0xf1, 0xff}); // less than a capability before the end
  CHECK(capabilities(config).size() == 4);
  put(config, 0x34, {0xfc});
  CHECK(capabilities(config).size() == 2);
  put(config, 0x06, {0x00}); // the function says that it has none
  put(config, 0x34, {0x40});
  CHECK(capabilities(config).size() == 2);
}

TEST_CASE("a PCI Express capability that lies about its place permits nothing beyond the configuration space") {
  auto config = function();
  config.resize(256);
  put(config, 0x34, {0xf0});
  put(config, 0xf0, {0x10, 0x00});
  CHECK(changeable(ConfigRules::parse(config), 0xf0, 16) == [] {
    Bytes expected(16);
    put(expected, 8, {0x10, 0x78});
    return expected;
  }());
}
