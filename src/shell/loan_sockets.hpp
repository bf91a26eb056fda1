// The sockets of the loans that this node has borrowed.
#pragma once

#include "context.hpp"
#include "loan_socket.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace smartio {

class LoanSockets {
public:
  /// `directory`: theirs, of which each makes one of its own. `is_program` says of a process whether it registered.
  LoanSockets(Context& context, std::string directory, std::function<bool(::pid_t)> is_program)
      : context_(context), directory_(std::move(directory)), is_program_(std::move(is_program)) {}

  void open(const core::OpenLoan& loan, DeviceSource lender);
  void perform(const core::CloseLoan& effect);
  void abandon_all(); ///< nothing is told any more

private:
  void over(core::LoanId loan);

  Context& context_;
  std::string directory_;
  std::function<bool(::pid_t)> is_program_;
  std::map<core::LoanId, std::shared_ptr<LoanSocket>> loans_;
  std::vector<std::weak_ptr<LoanSocket>> over_; ///< those whose client stays, until it has left
};

} // namespace smartio
