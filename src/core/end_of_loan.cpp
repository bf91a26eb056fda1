#include "end_of_loan.hpp"

#include <array>
#include <utility>

namespace smartio::core {

using Step = EndOfLoan::Step;

bool EndOfLoan::skipped(Step step) const noexcept {
  switch (step) {
  case Step::bus_master_off:
  case Step::reset:
  case Step::close_device:
  case Step::open_device: return !last_;
  case Step::tell_clients: return keep_;
  default: return false;
  }
}

void EndOfLoan::finished(std::optional<Error> failure) {
  if (failure && step_ >= Step::reset && !verdict_) verdict_ = std::move(failure);
  if (failure && !last_ && step_ == Step::unmap_windows) verdict_ = std::move(failure);
  do step_ = static_cast<Step>(std::to_underlying(step_) + 1);
  while (step_ != Step::done && skipped(step_));
}

std::string_view to_string(Step step) {
  static constexpr std::array<std::string_view, 10> names{"close the epoch",
                                                          "bus master off",
                                                          "interrupts off",
                                                          "unmap the windows",
                                                          "tell the clients",
                                                          "withdraw the registers",
                                                          "reset",
                                                          "close",
                                                          "open",
                                                          "done"};
  return names[std::to_underlying(step)];
}

} // namespace smartio::core
