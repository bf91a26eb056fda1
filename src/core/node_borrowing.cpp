// The borrower's side of loans: asking, opening the loan's socket, giving back, being taken back from.
#include "node.hpp"

#include "resolver.hpp"

#include <utility>

namespace smartio::core {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds answer_timeout{4000};
} // namespace

std::uint64_t Node::expect_answer(LinkId link, DeviceId device, std::optional<RequestId> reader) {
  const auto request = next_number_++;
  pending_[request] = {link, device, reader};
  if (link >= first_link) effects_.push_back(Arm{{Timer::Kind::answer, request}, answer_timeout});
  return request;
}

Result<LinkId> Node::path_to_lender(DeviceId id) const {
  const auto lender = lenders_.find(lender_of(id));
  const auto node = number(lender_of(id));
  if (lender == lenders_.end())
    return fail(Errc::no_such_device, "no device {} is known: node {} is not connected to this node", to_string(id),
                node);
  const bool known = lender->second.devices.contains(id);
  if (!known) return fail(Errc::no_such_device, "node {} has no device {}", node, to_string(id));
  if (lender->second.link == 0)
    return fail(Errc::peer_down, "node {}, which has device {}, is not connected now", node, to_string(id));
  const auto route = resolve({.device = lender_of(id),
                              .memory = settings_.node,
                              .cpu = settings_.node,
                              .kernel_device = parse_bdf(lender->second.devices.at(id).address).has_value()},
                             fabric_to(lender->second));
  if (!route) return std::unexpected(route.error());
  return lender->second.link;
}

void Node::borrow(DeviceId id, Loan loan, RequestId request) {
  const auto link = path_to_lender(id);
  if (!link) return reply(request, std::unexpected(link.error()));
  loan.waiting.push_back(request);
  const bool shared = loan.shared;
  loans_[id] = std::move(loan);
  send(*link, BorrowRequest{expect_answer(*link, id), id, shared});
}

void Node::receive(LinkId link, const Answer& answer) {
  const auto pending = pending_.find(answer.number);
  if (pending == pending_.end() || pending->second.link != link || pending->second.reader)
    return close_link(link, "it answered what was not asked");
  const auto id = pending->second.device;
  pending_.erase(pending);
  effects_.push_back(Disarm{{Timer::Kind::answer, answer.number}});
  borrow_answered(id, answer);
}

void Node::borrow_answered(DeviceId id, const Answer& answer) {
  const auto found = loans_.find(id);
  if (found == loans_.end()) return;
  auto& loan = found->second;
  if (loan.phase == Loan::Phase::returning)
    return finish_loan(id, {make_error_code(Errc::revoked), "the loan was returned"});
  if (loan.phase != Loan::Phase::requested) return;
  if (answer.code != Errc{}) {
    loan.give_back = false;
    return finish_loan(id, {make_error_code(answer.code), answer.message});
  }
  loan.epoch = answer.epoch;
  loan.phase = Loan::Phase::opening;
  if (!loan.returners.empty() || loan.released) return close_loan(id, loan, true);
  const auto& lender = lenders_[lender_of(id)];
  effects_.push_back(OpenLoan{{id, loan.epoch},
                              fabric_to(lender),
                              lender.link,
                              lender.hello.fabric_socket,
                              lender.hello.nonce,
                              loan.user,
                              loan.shared});
}

void Node::on(LoanOpened& opened) {
  const auto found = loans_.find(opened.loan.device);
  if (found == loans_.end() || found->second.epoch != opened.loan.epoch) return;
  auto& loan = found->second;
  if (loan.phase != Loan::Phase::opening) return;
  if (!opened.socket) {
    reply(loan.waiting, std::unexpected(opened.socket.error()));
    return return_loan(opened.loan.device, loan);
  }
  loan.socket = *opened.socket;
  loan.phase = Loan::Phase::open;
  emit("loan-opened", {{"device", to_string(opened.loan.device)}, {"epoch", loan.epoch}});
  reply(loan.waiting, Json{{"device", to_string(opened.loan.device)}, {"socket", loan.socket}});
}

/// Gives the loan back to the lender once its client is gone.
void Node::return_loan(DeviceId id, Loan& loan) {
  switch (loan.phase) {
  case Loan::Phase::requested: loan.released = true; break; // its answer closes it
  case Loan::Phase::opening:
  case Loan::Phase::open: close_loan(id, loan, true); break;
  case Loan::Phase::closing:
  case Loan::Phase::returning: break;
  }
}

void Node::close_loan(DeviceId id, Loan& loan, bool orderly) {
  if (loan.phase == Loan::Phase::closing || loan.phase == Loan::Phase::returning) return;
  loan.phase = Loan::Phase::closing;
  effects_.push_back(CloseLoan{{id, loan.epoch}, orderly});
}

void Node::on(const LoanClosed& closed) {
  const auto found = loans_.find(closed.loan.device);
  if (found == loans_.end() || found->second.epoch != closed.loan.epoch || found->second.phase != Loan::Phase::closing)
    return;
  auto& loan = found->second;
  if (loan.give_back) return request_return(closed.loan.device, loan);
  const auto lender = lenders_.find(lender_of(closed.loan.device));
  if (loan.released && lender != lenders_.end() && lender->second.link != 0)
    send(lender->second.link, Released{closed.loan.device, loan.epoch});
  finish_loan(closed.loan.device, {make_error_code(Errc::revoked), "the device was taken back"});
}

void Node::request_return(DeviceId id, Loan& loan) {
  const auto lender = lenders_.find(lender_of(id));
  if (lender == lenders_.end() || lender->second.link == 0)
    return finish_loan(id, {make_error_code(Errc::peer_down), "the lender is not connected"});
  loan.phase = Loan::Phase::returning;
  send(lender->second.link, ReturnRequest{expect_answer(lender->second.link, id), id, loan.epoch});
}

/// The loan is over: whoever waited to return it is done, whoever waited to use it learns why it cannot.
void Node::finish_loan(DeviceId id, const Error& why) {
  auto node = loans_.extract(id);
  auto& loan = node.mapped();
  reply(loan.returners, Json{{"device", to_string(id)}});
  reply(loan.waiting, std::unexpected(why));
  if (!loan.socket.empty()) emit("loan-ended", {{"device", to_string(id)}, {"epoch", loan.epoch}});
}

void Node::receive(LinkId link, const TakenBack& taken) {
  const auto found = loans_.find(taken.device);
  if (links_[link].peer != lender_of(taken.device)) return close_link(link, "it took back what it did not lend");
  if (found == loans_.end() || found->second.epoch != taken.epoch)
    return send(link, Released{taken.device, taken.epoch});
  auto& loan = found->second;
  loan.give_back = false;
  loan.released = true;
  log(4, fmt::format("device {} was taken back: {}", to_string(taken.device), taken.reason));
  emit("loan-taken-back", {{"device", to_string(taken.device)}, {"reason", taken.reason}});
  close_loan(taken.device, loan, true);
}

void Node::on(const FabricLost& lost) {
  const auto found = loans_.find(lost.loan.device);
  if (found == loans_.end() || found->second.epoch != lost.loan.epoch) return;
  log(4, fmt::format("device {} was lost: {}", to_string(lost.loan.device), lost.why));
  close_loan(lost.loan.device, found->second, false);
}

void Node::loans_lost(NodeId lender, const std::string& why) {
  std::erase_if(pending_, [this, lender, &why](const auto& p) {
    if (lender_of(p.second.device) != lender) return false;
    effects_.push_back(Disarm{{Timer::Kind::answer, p.first}});
    if (p.second.reader) reply(*p.second.reader, fail(Errc::peer_down, "{}", why));
    return true;
  });
  std::vector<DeviceId> gone;
  for (auto& [id, loan] : loans_) {
    if (lender_of(id) != lender) continue;
    loan.give_back = loan.released = false;
    if (loan.phase == Loan::Phase::requested || loan.phase == Loan::Phase::returning)
      gone.push_back(id);
    else
      close_loan(id, loan, false);
  }
  for (const auto id : gone) finish_loan(id, {make_error_code(Errc::peer_down), why});
}

void Node::on(const UsageChanged& changed) {
  const auto found = loans_.find(changed.loan.device);
  if (found == loans_.end() || found->second.epoch != changed.loan.epoch) return;
  auto& usage = found->second.usage;
  if (!changed.usage.problem.empty() && usage.problem != changed.usage.problem)
    log(3, fmt::format("device {} failed for process {}: {}", to_string(changed.loan.device), changed.usage.pid,
                       changed.usage.problem));
  usage = changed.usage;
}

} // namespace smartio::core
