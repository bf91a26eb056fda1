// The dump is for lspci, so lspci reads it here.
#include "host/lspci.hpp"

#include "catch.hpp"
#include "fixture_tree.hpp"
#include "skipped.hpp"

#include <array>
#include <cstdio>

using namespace smartio;
using namespace smartio::vfio::host;

namespace {

std::string run(const std::string& command) {
  std::string output;
  std::array<char, 4096> piece;
  FILE* pipe = ::popen(command.c_str(), "r");
  while (const auto got = std::fread(piece.data(), 1, piece.size(), pipe)) output.append(piece.data(), got);
  return ::pclose(pipe) == 0 ? output : "failed: " + output;
}

bool has_lspci() { return std::system("command -v lspci >/dev/null") == 0; }

std::vector<std::byte> some_config(std::size_t size) {
  std::vector<std::byte> config(size);
  for (std::size_t at = 0; at < size; ++at) config[at] = static_cast<std::byte>(at * 7 + at / 256);
  const std::array<unsigned char, 16> header{0x86, 0x80, 0xa5, 0xf1, 0x06, 0x04, 0x10, 0x00,
                                             0x03, 0x02, 0x08, 0x01, 0x00, 0x00, 0x00, 0x00};
  for (std::size_t at = 0; at < header.size(); ++at) config[at] = static_cast<std::byte>(header[at]);
  return config;
}

std::string hex_lines(const std::string& text) { return text.substr(text.find('\n')); }

} // namespace

TEST_CASE("lspci reads every byte of a dump back") {
  if (!has_lspci()) SKIPPED("there is no lspci");
  const testing::Tree tree;
  const auto size = GENERATE(std::size_t{64}, std::size_t{256}, std::size_t{4096});
  const auto text = hexdump({.bus = 6}, "a name\n00: 11 22\n10: ff", some_config(size));
  tree.file("dump", text);
  const auto options = size == 64 ? " -x" : size == 256 ? " -xxx" : " -xxxx";
  const auto output = run("lspci -n -D -F " + tree.at("dump") + options);
  CHECK(output.starts_with("0000:06:00.0 0108: 8086:f1a5 (rev 03)"));
  CHECK(hex_lines(output) == hex_lines(text));
}

TEST_CASE("lspci reads a dump of several devices, in domains of their own") {
  if (!has_lspci()) SKIPPED("there is no lspci");
  const testing::Tree tree;
  tree.file("dump", hexdump({.bus = 6}, "", some_config(256)) +
                        hexdump({.domain = 0x10000, .bus = 1, .device = 31, .function = 7}, "x", some_config(64)));
  CHECK(run("lspci -n -D -F " + tree.at("dump")) ==
        "0000:06:00.0 0108: 8086:f1a5 (rev 03)\n10000:01:1f.7 0108: 8086:f1a5 (rev 03)\n");
}
