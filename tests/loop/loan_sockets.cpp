// The sockets of all loans: what is left of them when their node stops.
#include "loan_sockets.hpp"
#include "catch.hpp"
#include "client_process.hpp"
#include "fixture_tree.hpp"
#include "small_device.hpp"
#include "vfio_user_raw.hpp"

using namespace smartio;
using namespace smartio::test;

namespace {

constexpr core::LoanId id{DeviceId{0x80000}, 1};

/// A loan of a device that opens at once.
struct Loans {
  Loans() {
    DeviceSource lender;
    const auto used = std::make_shared<int>();
    source = used;
    lender.open = [used](DeviceSource::Opened opened) {
      OpenedDevice open;
      open.device = std::make_shared<SmallDevice>();
      open.close = [](std::move_only_function<void()> done) { done(); };
      opened(std::move(open));
    };
    core::OpenLoan open{};
    open.loan = id;
    sockets.open(open, std::move(lender));
    settle(io);
  }

  boost::asio::io_context io;
  ::testing::Tree folder;
  Config config;
  std::weak_ptr<int> source; ///< expires with the loan that has it
  int closed = 0;
  Context context{io, config, [this](const core::Event& event) {
                    if (std::holds_alternative<core::LoanClosed>(event)) ++closed;
                  }};
  LoanSockets sockets{context, folder.at("loans"), [](::pid_t) { return false; }};
};

} // namespace

TEST_CASE("a node that stops lets go of loans, without a word") {
  Loans loans;
  REQUIRE_FALSE(loans.source.expired());
  loans.sockets.abandon_all();
  settle(loans.io);
  CHECK(loans.source.expired());
  CHECK(loans.closed == 0);
}

TEST_CASE("a node that stops lets go of a client that stayed although its loan has ended") {
  const bool leaves = GENERATE(false, true); // at that moment
  CAPTURE(leaves);
  Loans loans;
  ClientProcess process(loans.folder.at("loans/80000/cntrl"), ::geteuid(), ::getegid());
  Raw client(loans.io, process.socket().duplicate().value());
  const auto greeting = client.ask(message(Command::version, version("{}")));
  REQUIRE((greeting && !greeting->failed()));
  loans.sockets.perform(core::CloseLoan{id, true});
  run_until(loans.io, [&loans] { return loans.closed != 0; });
  CHECK_FALSE(loans.source.expired());
  if (leaves) REQUIRE(::shutdown(client.fd(), SHUT_RDWR) == 0);
  loans.sockets.abandon_all();
  settle(loans.io);
  CHECK_FALSE(client.receive());
  CHECK(loans.source.expired());
  CHECK(loans.closed == 1);
}
