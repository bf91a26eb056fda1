#include "node_loan.hpp"

#include "node_documents.hpp"
#include "open_loan.hpp"
#include "result.hpp"

namespace smartio::detail {
namespace {

struct NodeLoan final : Loan {
  NodeLoan(DeviceInfo device, std::shared_ptr<Node> of, std::shared_ptr<Caller> for_it, std::uint64_t which)
      : Loan(std::move(device)), node(std::move(of)), caller(std::move(for_it)), epoch(which) {}

  Result<void> can_give_back() const override { return caller->can_call(); }

  Result<bool> give_back() override {
    const auto answer = TRY(caller->call("return", {{"device", to_string(info.id)}, {"opened", true}}));
    return !core::get_bool(answer, "kept").value_or(false);
  }

  /// What only this end has noticed, the node knows nothing of: the device says that it failed, or is wanted back. Asks
  /// as anybody may: the connection that has the loan may be gone.
  Result<Ended> ended() override {
    const auto answer = node->call("ended", {{"device", to_string(info.id)}, {"epoch", epoch}});
    if (!answer && answer.error().code == Errc::peer_down) return Ended{LoanEnd::node_lost, to_string(answer.error())};
    if (!answer) return std::unexpected(answer.error());
    if (core::get_bool(*answer, "borrowed").value_or(false))
      return Ended{LoanEnd::device_lost, "it says that it failed, or that its lender's host wants it back"};
    const auto how = parse_loan_end(TRY(core::get_string(*answer, "end")));
    return Ended{how.value_or(LoanEnd::device_lost), TRY(core::get_string(*answer, "reason"))};
  }

  const std::shared_ptr<Node> node;     // released last
  const std::shared_ptr<Caller> caller; ///< the loan ends with it
  const std::uint64_t epoch;
};

} // namespace

Result<Device> borrow(const std::shared_ptr<Node>& node, DeviceId id, const Borrow& how) {
  auto caller = TRY(node->new_caller());
  const auto answer = TRY(caller->call("open", {{"device", to_string(id)}, {"shared", how.shared}}));
  const auto socket = TRY(core::get_string(answer, "socket"));
  const auto epoch = TRY(core::get_number(answer, "epoch"));
  const auto shown = TRY(node->call("show", {{"device", to_string(id)}}));
  auto info = TRY(parse_shown_device(shown));
  return open_loan(socket, node->timeout, std::make_shared<NodeLoan>(std::move(info), node, std::move(caller), epoch));
}

} // namespace smartio::detail
