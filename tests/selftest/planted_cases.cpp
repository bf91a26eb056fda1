// Test cases that do one thing wrong, and say nothing of it.
#include "planted.hpp"

#include "catch.hpp"
#include "skipped.hpp"

TEST_CASE("nothing is wrong", "[.][good]") { CHECK(planted::overflow(0) == INT_MAX); }
TEST_CASE("a check fails", "[.][check]") { CHECK(planted::overflow(0) == 0); }
TEST_CASE("a signed number overflows", "[.][overflow]") { planted::commit("overflow"); }
TEST_CASE("freed memory is used", "[.][use-after-free]") { planted::commit("use-after-free"); }
TEST_CASE("memory is lost", "[.][leak]") { planted::commit("leak"); }
TEST_CASE("two threads write one number", "[.][race]") { planted::commit("race"); }
TEST_CASE("a number overflows in a child", "[.][child]") { planted::commit("child"); }
TEST_CASE("a program ends before its tests", "[.][death]") { planted::commit("death"); }
TEST_CASE("a program dies of a signal", "[.][crash]") { planted::commit("crash"); }
TEST_CASE("an assertion fails", "[.][assertion]") { planted::commit("assertion"); }
TEST_CASE("a test never ends", "[.][hang]") { planted::commit("hang"); }
TEST_CASE("a test cannot run here", "[.][skip]") {
  if (GENERATE(1, 2) > 0) SKIPPED("of its own accord");
}
TEST_CASE("and another can", "[.][skip]") { CHECK(planted::overflow(0) == INT_MAX); }
