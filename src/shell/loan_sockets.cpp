#include "loan_sockets.hpp"

namespace smartio {

void LoanSockets::open(const core::OpenLoan& loan, DeviceSource lender) {
  LoanSocket::Options options{.loan = loan.loan,
                              .directory = directory_ + "/" + to_string(loan.loan.device),
                              .lender = std::move(lender),
                              .owner = loan.owner,
                              .trusted_group = context_.config.trusted_group,
                              .is_program = is_program_,
                              .shared = loan.shared};
  loans_[loan.loan] = LoanSocket::open(context_.io, std::move(options), [this](core::Event event) {
    if (const auto* closed = std::get_if<core::LoanClosed>(&event)) over(closed->loan);
    context_.handle(std::move(event));
  });
}

void LoanSockets::over(core::LoanId loan) {
  std::erase_if(over_, [](const auto& earlier) { return earlier.expired(); });
  if (const auto entry = loans_.extract(loan)) over_.push_back(entry.mapped());
}

void LoanSockets::perform(const core::CloseLoan& effect) {
  const auto loan = loans_.find(effect.loan);
  if (loan != loans_.end()) return loan->second->close(effect.orderly);
  context_.handle(core::LoanClosed{effect.loan});
}

void LoanSockets::abandon_all() {
  for (const auto& [id, loan] : std::exchange(loans_, {})) loan->abandon();
  for (const auto& weak : std::exchange(over_, {}))
    if (const auto loan = weak.lock()) loan->abandon();
}

} // namespace smartio
