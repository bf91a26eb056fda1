// Numbers and addresses as people type them, and what a program that fails ends with.
#include "text.hpp"

#include "bdf.hpp"
#include "catch.hpp"
#include "exit_code.hpp"

using namespace smartio;

TEST_CASE("a number is digits and nothing else, and not above its limit") {
  CHECK(parse_number("0") == 0);
  CHECK(parse_number("18446744073709551615") == UINT64_MAX);
  CHECK(parse_number("ff", 16) == 255);
  CHECK(parse_number("255", 10, 255) == 255);
  for (const auto* text : {"", " 1", "1 ", "1x", "x1", "+1", "-1", "0x1", "1.0", "18446744073709551616", "256"})
    CHECK(parse_number(text, 10, 255) == std::nullopt);
}

TEST_CASE("a size has K, M or G at most, and fits 64 bits") {
  CHECK(parse_size("4096").value() == 4096);
  CHECK(parse_size("3k").value() == 3072);
  CHECK(parse_size("2M").value() == 2U << 20);
  CHECK(parse_size("17179869183G").value() == 17179869183ULL << 30);
  for (const auto* text : {"", "K", "1KB", "1 K", "-1K", "17179869184G", "18446744073709551615K"})
    CHECK_FALSE(parse_size(text));
}

TEST_CASE("an address of a function is complete and in range") {
  CHECK(parse_bdf("0000:ff:1f.7") == Bdf{0, 0xff, 0x1f, 7});
  CHECK(parse_bdf("10000:01:00.0") == Bdf{0x10000, 1, 0, 0});
  for (const auto* text : {"0000:01:20.0", "0000:01:00.8", "01:00.0", "0000:01:00", "000:01:00.0", "0000:01:00.0 "})
    CHECK(parse_bdf(text) == std::nullopt);
}

TEST_CASE("no failure ends with success, and each kind with its own code") {
  for (const auto& [code, exit] :
       {std::pair(Errc::bad_request, 2), std::pair(Errc::no_such_device, 3), std::pair(Errc::no_such_node, 3),
        std::pair(Errc::busy, 4), std::pair(Errc::wrong_state, 4), std::pair(Errc::revoked, 4),
        std::pair(Errc::not_permitted, 5), std::pair(Errc::peer_down, 6), std::pair(Errc::timed_out, 6),
        std::pair(Errc::no_window, 1)})
    CHECK(exit_code({make_error_code(code), {}}) == exit);
  CHECK(exit_code({std::error_code(EACCES, std::system_category()), {}}) == 5);
  CHECK(exit_code({std::error_code(EIO, std::system_category()), {}}) == 1);
}
