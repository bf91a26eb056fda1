// The order in which a loan ends, and what a failure of each step leads to.
#include "end_of_loan.hpp"

#include "catch.hpp"

#include <vector>

using smartio::Errc;
using smartio::Error;
using smartio::core::EndOfLoan;
using Step = EndOfLoan::Step;

namespace {

std::vector<Step> steps(EndOfLoan order, std::optional<Step> failing = std::nullopt, bool* quarantined = nullptr) {
  std::vector<Step> taken;
  while (order.step() != Step::done) {
    const auto step = order.step();
    taken.push_back(step);
    std::optional<Error> failure;
    if (step == failing) failure = Error{make_error_code(Errc::timed_out), "no answer"};
    order.finished(std::move(failure));
  }
  if (quarantined != nullptr) *quarantined = order.verdict().has_value();
  return taken;
}

const std::vector<Step> whole{Step::close_epoch,   Step::bus_master_off, Step::interrupts_off,
                              Step::unmap_windows, Step::tell_clients,   Step::withdraw_bars,
                              Step::reset,         Step::close_device,   Step::open_device};

} // namespace

TEST_CASE("the last loan of a device ends in the one order there is") { CHECK(steps({true, false}) == whole); }

TEST_CASE("a loan that is kept for its next client ends alike, but nobody is told") {
  auto expected = whole;
  std::erase(expected, Step::tell_clients);
  CHECK(steps({true, true}) == expected);
}

TEST_CASE("one share of several touches nothing the others depend on") {
  CHECK(steps({false, false}) == std::vector{Step::close_epoch, Step::interrupts_off, Step::unmap_windows,
                                             Step::tell_clients, Step::withdraw_bars});
}

TEST_CASE("a failed step never stops the ones after it") {
  for (const auto failing : whole) CHECK(steps({true, false}, failing) == whole);
}

TEST_CASE("only a failed reset, close or open keeps the device from being lent again") {
  for (const auto failing : whole) {
    bool quarantined = false;
    steps({true, false}, failing, &quarantined);
    CHECK(quarantined == (failing >= Step::reset));
  }
}

TEST_CASE("a share whose windows stay reachable keeps the device from being lent again") {
  bool quarantined = false;
  steps({false, false}, Step::unmap_windows, &quarantined);
  CHECK(quarantined);
}
