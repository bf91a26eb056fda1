// A device that its program gives back, and what is known then of the loan and of the memory.
#include "catch.hpp"
#include "device_in_use.hpp"
#include "test_loan.hpp"

#include <optional>

using namespace smartio;
using namespace testing;
using namespace std::chrono_literals;

TEST_CASE("a device that was given back is asked to let go of all memory, and has nothing any more") {
  TestServer server("given-back");
  const unsigned before = memories();
  {
    InUse use(server.path());
    CHECK(use.device.give_back());
    check_taken_back(use);
    CHECK(use.device.ended().value()->how == LoanEnd::returned);
    CHECK(server.wait_until_left(4s));
    CHECK(server.with([](TestDevice& model) { return model.unmap_alls; }) == 1);
  }
  CHECK(memories() == before);
}

TEST_CASE("who gives a device back learns whether its memory is free") {
  TestServer server("unheard");
  ignore_unmaps(server);
  SECTION("it is not, as far as is known, when the server does not say so") {
    const unsigned before = memories();
    {
      InUse use(server.path(), 300ms);
      CHECK(fails_with(use.device.give_back(), Errc::timed_out));
      CHECK(fails_with(use.device.give_back(), Errc::timed_out)); // and again
      check_taken_back(use);
    }
    CHECK(memories() == before + 1); // kept for ever
  }
  SECTION("nor when another program of this host keeps the loan") {
    const auto loan = std::make_shared<TestLoan>();
    loan->kept = true;
    const auto device = open_loan(server.path(), 300ms, loan).value();
    CHECK(fails_with(device.give_back(), Errc::timed_out));
    CHECK(loan->given_back == 1);
  }
  SECTION("it is when the lender says that the loan has ended") {
    const unsigned before = memories();
    {
      const auto loan = std::make_shared<TestLoan>();
      const auto device = open_loan(server.path(), 300ms, loan).value();
      const auto memory = Memory::allocate(page).value();
      const auto window = device.map_dma(memory, Access::write).value();
      CHECK(device.give_back());
      CHECK(device.give_back());
      CHECK(loan->given_back == 1);
    }
    CHECK(memories() == before);
  }
}

TEST_CASE("a device that was taken back before it is given back has not been returned") {
  TestServer server("late");
  const auto loan = std::make_shared<TestLoan>();
  const auto device = open_loan(server.path(), 4000ms, loan).value();
  server.drop_client();
  REQUIRE(readable(device.revoked_fd(), 4000));
  CHECK(device.ended().value()->how == LoanEnd::taken_back);
  CHECK(device.give_back());
  CHECK(device.ended().value()->how == LoanEnd::taken_back);
}

TEST_CASE("a device of a loan lets go of the loan when its last object is gone and the connection closed") {
  TestServer server("loan");
  auto loan = std::make_shared<TestLoan>();
  const std::weak_ptr held = loan;
  std::optional<Device> device = open_loan(server.path(), 4000ms, std::move(loan)).value();
  std::optional<BarMapping> bar = device->map_bar(0).value();
  device.reset();
  CHECK_FALSE(held.expired());
  bar.reset();
  CHECK(held.expired());
  CHECK(server.wait_until_left(4s));
  CHECK(fails_with(open_loan("/nonexistent/socket", 4000ms, std::make_shared<TestLoan>()), Errc::peer_down));
}
