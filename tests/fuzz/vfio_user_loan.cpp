// A client that says anything on the socket of a loan: what it says passes the borrower's rules, the connection between
// the nodes and the lender's rules, and the loan may end on either side meanwhile. No descriptor may be left.
#include "any_client.hpp"
#include "borrowed_device.hpp"
#include "client_device.hpp"
#include "small_device.hpp"
#include "user/client.hpp"
#include "user/server.hpp"
#include "vm_device.hpp"

#include <cstdlib>

using namespace smartio;
using namespace smartio::vfio::user;

namespace {

std::pair<Fd, Socket> make_pair(boost::asio::io_context& io) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  return {Fd(ends[0]), Socket(io, boost::asio::local::stream_protocol(), ends[1])};
}

Description described(const test::SmallDevice& device) {
  Description description;
  description.can_reset = true;
  description.protected_pages = {{0, 0, 4096}};
  description.config = device.config;
  return description;
}

OpenedDevice opened(std::shared_ptr<Client> client) {
  OpenedDevice lent;
  lent.device = client;
  lent.close = [client](std::move_only_function<void()> closed) {
    client->close();
    closed();
  };
  return lent;
}

/// Both nodes' parts of a loan, in one loop.
struct Loan {
  explicit Loan(boost::asio::io_context& io, bool shared, bool filters)
      : lender(std::make_shared<ClientDevice>(device, described(*device), shared ? std::optional(0U) : std::nullopt,
                                              filters, std::make_shared<RegisterWindows>())) {
    auto between = make_pair(io);
    lending = Connection::start(std::move(between.second), lender, counters, [] {});
    Socket socket(io, boost::asio::local::stream_protocol(), between.first.release());
    Client::start(std::move(socket), std::chrono::seconds(4),
                  [weak = std::weak_ptr(borrowed)](Result<std::shared_ptr<Client>> connected) {
                    const auto to = weak.lock();
                    if (connected && to) return to->connected(opened(std::move(*connected)));
                    if (connected) (*connected)->close();
                  });
    auto outside = make_pair(io);
    client = std::move(outside.first);
    serving = Connection::start(std::move(outside.second), machine, counters, [] {});
  }
  ~Loan() {
    serving->close();
    borrowed->close();
    lending->close();
  }

  std::shared_ptr<test::SmallDevice> device = std::make_shared<test::SmallDevice>();
  std::shared_ptr<ClientDevice> lender;
  std::shared_ptr<BorrowedDevice> borrowed = std::make_shared<BorrowedDevice>(true, [] {});
  std::shared_ptr<VmDevice> machine = std::make_shared<VmDevice>(
      borrowed, [](const std::string&) {}, [] {});
  Counters counters;
  std::shared_ptr<Connection> lending, serving;
  Fd client;
};

void end(Loan& loan, unsigned how) {
  if (how == 1) loan.borrowed->revoke(true);
  if (how == 2) loan.borrowed->revoke(false);
  if (how == 2) loan.machine->lost();
  if (how == 3) loan.lender->close_epoch();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static boost::asio::io_context io;
  static bool warm = false; // the loop has its own descriptors
  if (size < 2) return 0;
  const auto before = test::descriptors_now();
  {
    Loan loan(io, (data[0] & 1) != 0, (data[0] & 2) != 0);
    if ((data[0] & 4) != 0) loan.device->manner = test::SmallDevice::Manner::later;
    io.restart();
    const auto input = std::as_bytes(std::span(data, size)).subspan(1);
    const auto cut = (data[0] & 8) != 0 ? input.size() / 2 : input.size();
    test::AnyClient client(loan.client.get(), io);
    if (cut != 0) client.speak(input.first(cut));
    io.poll();
    end(loan, data[0] >> 4 & 3);
    if (cut < input.size()) client.speak(input.subspan(cut));
    io.poll();
    while (!loan.device->waiting.empty()) {
      loan.device->complete(loan.device->waiting.size() - 1);
      io.poll();
    }
  }
  io.poll();
  if (std::exchange(warm, true) && test::descriptors_now() != before) std::abort();
  return 0;
}
