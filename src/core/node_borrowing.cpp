// The borrower's side of loans: asking, opening the loan's socket, giving back, being taken back from.
#include "node.hpp"

#include "resolver.hpp"

#include <utility>

namespace smartio::core {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds borrow_timeout{4000}, config_timeout{10000};
constexpr unsigned most_unanswered = 64; ///< requests of one lender
constexpr std::size_t most_ended = 256;  ///< loans, of which it is known how they ended

Json end_document(const Ended& ended) { return {{"end", to_string(ended.how)}, {"reason", ended.why}}; }
} // namespace

std::uint64_t Node::expect_answer(Pending pending) {
  const auto number = next_number_++;
  // An end lasts as long as it lasts: the lender's heartbeats say that it is on it.
  if (pending.link >= first_link && pending.kind != Pending::Kind::give_back)
    effects_.push_back(
        Arm{{Timer::Kind::answer, number}, pending.kind == Pending::Kind::config ? config_timeout : borrow_timeout});
  pending_.emplace(number, std::move(pending));
  return number;
}

/// The request fails, and nothing else does. A lender that leaves one after the other is of no use.
void Node::answer_is_late(std::uint64_t number, Pending& pending) {
  if (std::exchange(pending.late, true)) return;
  const Pending asked = pending;
  const auto why = fmt::format("node {} did not answer in time", smartio::number(lender_of(asked.device)));
  if (asked.kind == Pending::Kind::config) reply(asked.reader, fail(Errc::timed_out, "{}", why));
  const auto loan = loans_.find(asked.device);
  if (asked.kind == Pending::Kind::borrow && loan != loans_.end() && loan->second.asked == number)
    finish_loan(asked.device, Error{make_error_code(Errc::timed_out), why});
  if (++links_[asked.link].unanswered >= most_unanswered) close_link(asked.link, "it answers no requests");
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
  loan.asked = expect_answer({.kind = Pending::Kind::borrow, .link = *link, .device = id});
  send(*link, BorrowRequest{loan.asked, id, loan.shared});
  for (const auto owner : loan.owners) taken_.emplace(owner, id);
  loans_[id] = std::move(loan);
}

void Node::receive(LinkId link, const Answer& answer) {
  const auto found = pending_.find(answer.number);
  if (found == pending_.end() || found->second.link != link || found->second.kind == Pending::Kind::config)
    return close_link(link, "it answered what was not asked");
  const Pending asked = found->second;
  pending_.erase(found);
  effects_.push_back(Disarm{{Timer::Kind::answer, answer.number}});
  if (asked.late) --links_[link].unanswered;
  if (asked.kind == Pending::Kind::borrow) return borrow_answered(asked, answer);
  const auto loan = loans_.find(asked.device);
  if (loan == loans_.end() || loan->second.returning != answer.number) return;
  loan->second.returning.reset();
  if (loan->second.phase == Loan::Phase::closing) return; // its client is about to leave
  // The lender ended it before this node asked, or after all was told: nothing of it is left there.
  if (loan->second.phase == Loan::Phase::returning) return close_loan(asked.device, loan->second, true);
  finish_loan(asked.device, {make_error_code(Errc::revoked), "the loan was returned"});
}

/// A grant that nobody waits for any more is returned at once.
void Node::borrow_answered(const Pending& asked, const Answer& answer) {
  const auto id = asked.device;
  const auto found = loans_.find(id);
  if (found == loans_.end() || found->second.asked != answer.number) {
    if (answer.code == Errc{})
      send(asked.link,
           ReturnRequest{expect_answer({.kind = Pending::Kind::give_back, .link = asked.link, .device = id}), id,
                         answer.epoch});
    return;
  }
  auto& loan = found->second;
  if (answer.code != Errc{}) return finish_loan(id, {make_error_code(answer.code), answer.message});
  loan.epoch = answer.epoch;
  loan.phase = Loan::Phase::opening;
  changed_.insert(lender_of(id));
  if (loan.unwanted || !loan.returners.empty()) return return_loan(id, loan);
  const auto& lender = lenders_[lender_of(id)];
  effects_.push_back(OpenLoan{{id, loan.epoch},
                              fabric_to(lender),
                              lender.link,
                              lender.hello.fabric_token,
                              lender.hello.nonce,
                              loan.user,
                              loan.shared,
                              loan.window});
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
  const auto lender = lenders_.find(lender_of(opened.loan.device));
  const bool local = lender != lenders_.end() && fabric_to(lender->second) == Fabric::local;
  const char* note = "nothing was reserved: the lender is on this host, where memory needs no aperture";
  reply(loan.waiting, Json{{"device", to_string(opened.loan.device)}, {"socket", loan.socket}, {"epoch", loan.epoch}},
        loan.window != 0 && local ? note : "");
}

/// Asks the lender to end the loan. Until that says that the device reaches no memory of the client any more, the
/// client is told nothing.
void Node::return_loan(DeviceId id, Loan& loan) {
  if (loan.phase == Loan::Phase::requested) loan.unwanted = true; // its answer returns it
  if (loan.phase != Loan::Phase::opening && loan.phase != Loan::Phase::open) return;
  const auto lender = lenders_.find(lender_of(id));
  if (lender == lenders_.end() || lender->second.link == 0) return close_loan(id, loan, false);
  const auto link = lender->second.link;
  loan.phase = Loan::Phase::returning;
  loan.returning = expect_answer({.kind = Pending::Kind::give_back, .link = link, .device = id});
  send(link, ReturnRequest{*loan.returning, id, loan.epoch});
}

/// `orderly`: the device reaches no memory of the client any more.
void Node::close_loan(DeviceId id, Loan& loan, bool orderly) {
  if (loan.phase >= Loan::Phase::closing) return;
  loan.phase = Loan::Phase::closing;
  effects_.push_back(CloseLoan{{id, loan.epoch}, orderly});
}

void Node::on(const LoanClosed& closed) {
  const auto found = loans_.find(closed.loan.device);
  if (found == loans_.end() || found->second.epoch != closed.loan.epoch || found->second.phase != Loan::Phase::closing)
    return;
  auto& loan = found->second;
  const auto lender = lenders_.find(lender_of(closed.loan.device));
  if (std::exchange(loan.taken_back, false) && lender != lenders_.end() && lender->second.link != 0)
    send(lender->second.link, Released{closed.loan.device, loan.epoch});
  if (loan.returning) return void(loan.phase = Loan::Phase::released);
  const bool lost = loan.ended && loan.ended->how == LoanEnd::lender_lost;
  finish_loan(closed.loan.device, lost ? Error{make_error_code(Errc::peer_down), loan.ended->why}
                                       : Error{make_error_code(Errc::revoked), "the device was taken back"});
}

/// The loan is over: whoever waited to return it is done, whoever waited to use it learns why it cannot.
void Node::finish_loan(DeviceId id, const Error& why) {
  auto node = loans_.extract(id);
  changed_.insert(lender_of(id));
  auto& loan = node.mapped();
  reply(loan.returners, Json{{"device", to_string(id)}});
  reply(loan.waiting, std::unexpected(why));
  tell_end({id, loan.epoch}, loan);
  for (auto& [command, owner] : loan.next) take(command, owner);
}

/// The first that ends it is how it ended, except that a lender which is lost is more than what was heard of its
/// device.
void Node::end_as(Loan& loan, LoanEnd how, std::string why) {
  const bool more = how == LoanEnd::lender_lost && loan.ended && loan.ended->how == LoanEnd::device_lost;
  if (!loan.ended || more) loan.ended = Ended{how, std::move(why)};
}

/// To whoever asks, and for those who ask later.
void Node::tell_end(LoanId id, Loan& loan) {
  auto ended = loan.ended.value_or(Ended{LoanEnd::taken_back, ""});
  reply(loan.asking, end_document(ended));
  if (loan.socket.empty()) return; // it never was of any use
  emit("loan-ended",
       {{"device", to_string(id.device)}, {"epoch", id.epoch}, {"end", to_string(ended.how)}, {"reason", ended.why}});
  ended_.emplace_back(id, std::move(ended));
  if (ended_.size() > most_ended) ended_.pop_front();
}

void Node::command_ended(Command& c) {
  const auto device = find_device(c.arguments);
  if (!device) return reply(c.request, std::unexpected(device.error()));
  const auto epoch = get_number(c.arguments, "epoch");
  if (!epoch) return reply(c.request, std::unexpected(epoch.error()));
  const auto loan = loans_.find(*device);
  if (loan != loans_.end() && loan->second.epoch == *epoch) {
    if (loan->second.phase > Loan::Phase::open) return loan->second.asking.push_back(c.request);
    return reply(c.request, Json{{"borrowed", true}});
  }
  const auto ended = std::ranges::find(ended_, LoanId{*device, *epoch}, &std::pair<LoanId, Ended>::first);
  if (ended != ended_.end()) return reply(c.request, end_document(ended->second));
  reply(c.request, fail(Errc::wrong_state, "device {} was not lent to this node as loan {}, or that is long ago",
                        to_string(*device), *epoch));
}

void Node::receive(LinkId link, const TakenBack& taken) {
  const auto found = loans_.find(taken.device);
  if (links_[link].peer != lender_of(taken.device)) return close_link(link, "it took back what it did not lend");
  if (found == loans_.end() || found->second.epoch != taken.epoch)
    return send(link, Released{taken.device, taken.epoch});
  auto& loan = found->second;
  if (loan.phase >= Loan::Phase::closing) return; // told already, or lost
  loan.taken_back = true;
  end_as(loan, taken.lost ? LoanEnd::device_lost : LoanEnd::taken_back, taken.reason);
  if (!loan.returning) {
    log(4, fmt::format("device {} was taken back: {}", to_string(taken.device), taken.reason));
    emit("loan-taken-back", {{"device", to_string(taken.device)}, {"reason", taken.reason}});
  }
  close_loan(taken.device, loan, true);
}

void Node::on(const FabricLost& lost) {
  const auto found = loans_.find(lost.loan.device);
  if (found == loans_.end() || found->second.epoch != lost.loan.epoch) return;
  log(4, fmt::format("device {} was lost: {}", to_string(lost.loan.device), lost.why));
  end_as(found->second, LoanEnd::device_lost, lost.why);
  return_loan(lost.loan.device, found->second);
}

void Node::loans_lost(NodeId lender, const std::string& why) {
  std::erase_if(pending_, [this, lender, &why](const auto& p) {
    if (lender_of(p.second.device) != lender) return false;
    effects_.push_back(Disarm{{Timer::Kind::answer, p.first}});
    if (p.second.kind == Pending::Kind::config && !p.second.late)
      reply(p.second.reader, fail(Errc::peer_down, "{}", why));
    return true;
  });
  std::vector<DeviceId> gone;
  for (auto& [id, loan] : loans_of(lender)) {
    loan.taken_back = false;
    loan.returning.reset();
    end_as(loan, LoanEnd::lender_lost, why);
    if (loan.phase == Loan::Phase::requested || loan.phase == Loan::Phase::released)
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
