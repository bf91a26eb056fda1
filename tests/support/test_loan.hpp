// A loan that a test sees the end of.
#pragma once

#include "open_loan.hpp"

namespace testing {

struct TestLoan final : smartio::detail::Loan {
  explicit TestLoan(smartio::NodeId lender = smartio::NodeId{8})
      : Loan(smartio::DeviceInfo{.id = static_cast<smartio::DeviceId>(static_cast<std::uint32_t>(lender) << 16),
                                 .node = lender}) {}
  smartio::Result<void> can_give_back() const override { return {}; }
  smartio::Result<bool> give_back() override {
    ++given_back;
    return !kept;
  }
  smartio::Result<smartio::Ended> ended() override {
    return smartio::Ended{smartio::LoanEnd::taken_back, "wanted back"};
  }
  bool kept = false; ///< by another program
  unsigned given_back = 0;
};

} // namespace testing
