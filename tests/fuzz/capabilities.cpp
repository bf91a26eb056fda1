// Any configuration space: the walk over its capabilities ends within it, and of a borrower's writes no bit gets
// through that the lender needs. The same bytes as vital product data: a serial number is printable.
#include "capabilities.hpp"
#include "config_rules.hpp"
#include "script.hpp"
#include "vpd.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio;
using namespace smartio::test;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

struct Function {
  std::vector<std::byte> config = std::vector<std::byte>(256);

  void put(std::uint64_t at, std::size_t bytes, std::uint64_t value) {
    for (std::size_t i = 0; i < bytes; ++i)
      config[(at + i) % config.size()] = static_cast<std::byte>(value >> 8 * (i % 8) & 0xff);
  }
  void check() const;
  void check_vpd() const;
  void write(std::uint64_t offset, std::size_t bytes, std::byte value) const;
};

void Function::check() const {
  const auto found = capabilities(config);
  require(found.size() <= (config.size() - 64) / 4);
  for (std::size_t i = 0; i < found.size(); ++i) {
    require(found[i].offset >= (found[i].extended ? 256 : 64) && found[i].offset + 16U <= config.size());
    for (std::size_t j = 0; j < i; ++j) require(found[j].offset != found[i].offset);
    if (!found[i].extended) require(find_capability(config, found[i].id).has_value());
  }
}

/// What stands there as vital product data. A number is one that can be printed, as it is given.
void Function::check_vpd() const {
  const auto serial = vpd_serial_number(config);
  if (!serial) return;
  require(!serial->empty() && serial->size() <= 255 && serial->front() != ' ' && serial->back() != ' ');
  for (const char c : *serial) require(c >= ' ' && c <= '~');
}

/// What is let through lies within what was asked, keeps the command register's enables, and reaches no MSI-X.
void Function::write(std::uint64_t offset, std::size_t bytes, std::byte value) const {
  const auto end = std::min<std::uint64_t>(offset + bytes, config.size());
  if (offset >= end) return;
  const auto current = std::span(config).subspan(offset, end - offset);
  for (const auto& write : ConfigRules::parse(config).allowed(offset, std::vector(bytes, value), current)) {
    require(!write.data.empty() && write.offset >= offset && write.offset + write.data.size() <= end);
    for (std::size_t i = 0; i < write.data.size(); ++i) {
      const auto at = write.offset + i;
      const auto changed = std::to_integer<unsigned>(write.data[i] ^ config[at]);
      require(at != 4 || (changed & ~4U) == 0);                      // bus master
      require(at != 5 || (changed & ~4U) == 0);                      // interrupt disable
      require(at < 64 || find_capability(config, 0x10).has_value()); // of all capabilities only PCI Express
    }
  }
}

constexpr auto steps = std::to_array<Step<Function>>({
    {"capability", // offset, id, next
     [](Function& f, Line& l) {
       const auto at = l.next();
       f.put(at, 1, l.next());
       f.put(at + 1, 1, l.next());
     }},
    {"capability_list", // the first one's offset
     [](Function& f, Line& l) {
       f.put(0x06, 1, 0x10);
       f.put(0x34, 1, l.next());
     }},
    {"extended", // offset, id, next
     [](Function& f, Line& l) {
       const auto at = l.next(), id = l.next(), next = l.next();
       f.put(at, 4, id | 1U << 16 | next << 20);
     }},
    {"fill", [](Function& f, Line& l) { std::ranges::fill(f.config, l.below<std::byte>(256)); }},
    {"put", // offset, bytes, value
     [](Function& f, Line& l) {
       const auto at = l.next();
       const auto bytes = l.below(16);
       f.put(at, bytes, l.next());
     }},
    {"size",
     [](Function& f, Line& l) {
       f.config.resize(std::array{256U, 4096U, 64U, 257U}[l.below(4)]);
     }},
    {"vpd_item", // offset, tag, size
     [](Function& f, Line& l) {
       const auto at = l.next();
       f.put(at, 1, l.next());
       f.put(at + 1, 2, l.next());
     }},
    {"vpd_field", // offset, keyword, size
     [](Function& f, Line& l) {
       constexpr std::array keywords{std::pair('S', 'N'), std::pair('R', 'V'), std::pair('P', 'N')};
       const auto at = l.next();
       const auto [first, second] = keywords[l.below(keywords.size())];
       f.put(at, 1, static_cast<unsigned char>(first));
       f.put(at + 1, 1, static_cast<unsigned char>(second));
       f.put(at + 2, 1, l.next());
     }},
    {"vpd_sum", // offset of the byte that makes it 0
     [](Function& f, Line& l) {
       const auto at = l.below(f.config.size());
       unsigned sum = 0;
       for (std::size_t i = 0; i < at; ++i) sum += std::to_integer<unsigned>(f.config[i]);
       f.put(at, 1, 0 - sum);
     }},
    {"write", // offset, bytes, value
     [](Function& f, Line& l) {
       const auto at = l.below(8192), bytes = 1 + l.below(64);
       f.write(at, bytes, l.below<std::byte>(256));
     }},
});

} // namespace

std::vector<std::string_view> test::script_steps() { return names_of(std::span<const Step<Function>>(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Function function;
  play({reinterpret_cast<const char*>(data), size}, std::span<const Step<Function>>(steps), function);
  function.check();
  function.check_vpd();
  for (std::uint64_t at = 0; at < function.config.size(); at += 64) function.write(at, 64, std::byte{0xff});
  return 0;
}
