// A lent device beyond a path, as its borrower's node reaches it, and a lender's node that says what was not asked
// for.
#include "remote_device.hpp"

#include "exposing_client.hpp"
#include "user/codec.hpp"

using namespace smartio;
using namespace smartio::testing;
using core::DeviceMessage;

namespace {

/// A borrower's end of a session, and the lender as the test plays it.
struct Session {
  ~Session() {
    near.watched().late = false;
    device->close();
  }
  /// The reply to a request: nullopt while there is none.
  std::shared_ptr<std::optional<vfio::Reply>> ask(vfio::Request request) {
    auto reply = std::make_shared<std::optional<vfio::Reply>>();
    device->submit(std::move(request), [reply](vfio::Reply answer) {
      REQUIRE_FALSE(reply->has_value()); // exactly one
      reply->emplace(std::move(answer));
    });
    return reply;
  }
  std::shared_ptr<std::optional<vfio::Reply>> map(const Fd& fd, std::uint64_t iova) {
    return ask(vfio::DmaMap{Iova{iova}, page, Access::read_write, fd.duplicate().value(), 0});
  }
  /// The lender answers the newest command, of whatever kind, with success and no data.
  void answer() {
    device->received({.loan = loan, .session = 1, .kind = DeviceMessage::Kind::reply, .number = sent.back().number});
  }

  const core::LoanId loan{DeviceId{0x40000}, 7};
  ExposingClient near;
  std::vector<DeviceMessage> sent;
  bool lost = false;
  std::shared_ptr<RemoteDevice> device =
      std::make_shared<RemoteDevice>(near.io, loan, 1, core::DevicePath{}, near.exposures, std::chrono::seconds(4),
                                     [this](const DeviceMessage& message) { sent.push_back(message); });
};

} // namespace

TEST_CASE("a second answer to a command, while memory is being exposed for the next, loses the device") {
  Session session;
  session.device->on_lost([&session] { session.lost = true; });
  const auto memory = file(2);
  const auto first = session.map(memory, 0);
  session.answer();
  REQUIRE(first->has_value());
  session.near.watched().late = true;
  const auto other = file(2);
  const auto second = session.map(other, page); // the path has not mapped it yet
  session.answer();                             // the first once more
  CHECK(session.lost);
  REQUIRE(second->has_value());
  CHECK_FALSE((*second)->has_value());
  while (!session.near.watched().answers.empty()) session.near.watched().answer();
}

TEST_CASE("a request that is made when another is answered is sent once") {
  Session session;
  session.device->submit(vfio::Reset{}, [&session](const vfio::Reply&) { session.ask(vfio::Reset{}); });
  REQUIRE(session.sent.size() == 1);
  session.answer();
  CHECK(session.sent.size() == 2);
}

TEST_CASE("a session that ends here tells the lender, and gives its doorbells back") {
  Session session;
  vfio::SetIrqs irqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, 0, 2, {}, {}};
  for (int i = 0; i < 2; ++i) irqs.eventfds.push_back(make_eventfd().value());
  session.ask(std::move(irqs));
  REQUIRE(session.sent.back().doorbells.size() == 2);
  session.device->close();
  CHECK(session.sent.back().kind == DeviceMessage::Kind::closed);
  unsigned free = 0;
  while (session.near.path->claim_doorbell([] {})) ++free;
  CHECK(free == 31);
}
