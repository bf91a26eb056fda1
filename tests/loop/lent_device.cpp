// A lent device: which slice of the IOVAs each client has, and its end while something is under way.
#include "lent_device.hpp"
#include "catch.hpp"
#include "small_device.hpp"

#include <optional>

using namespace smartio;
using namespace smartio::test;
using namespace std::chrono_literals;

namespace {

constexpr DeviceId id{0x80000};

/// A device that is lent, and whoever is served.
struct Lender {
  struct Client {
    core::LoanId loan;
    std::shared_ptr<vfio::Device> device; ///< none: it waits
    std::function<void()> gone;
    bool disconnected = false;
  };
  boost::asio::io_context io;
  std::shared_ptr<SmallDevice> device = std::make_shared<SmallDevice>();
  std::shared_ptr<LentDevice> lent;
  std::function<void()> opens = [] {};

  Lender() {
    DeviceSource source{[this](DeviceSource::Opened opened) {
                          opens();
                          OpenedDevice open;
                          open.device = device;
                          open.close = [](std::move_only_function<void()> closed) { closed(); };
                          opened(std::move(open));
                        },
                        "",
                        {}};
    LentDevice::open(
        io, id, std::move(source), std::make_shared<RegisterWindows>(),
        [this](const core::Event& event) {
          if (const auto* tell = std::get_if<core::TellClients>(&event)) lent->clients_released(tell->loan);
        },
        [this](auto opened) { lent = std::move(opened).value(); });
    io.poll();
    REQUIRE(lent);
  }
  ~Lender() {
    lent->close();
    io.restart();
    io.poll();
  }

  std::shared_ptr<Client> attach(std::uint64_t epoch, bool shared = true) {
    const auto client = std::make_shared<Client>(Client{{id, epoch}, nullptr, nullptr});
    lent->attach(client->loan, shared, [client](std::shared_ptr<vfio::Device> served, std::function<void()> gone) {
      client->device = std::move(served);
      client->gone = std::move(gone);
      return [client] { client->disconnected = true; };
    });
    run();
    return client;
  }
  void run() { // nothing here waits for anybody
    io.restart();
    io.poll();
  }
  void leave(const std::shared_ptr<Client>& client) {
    client->gone();
    run();
  }
};

std::optional<unsigned> slice(const std::shared_ptr<Lender::Client>& client) {
  REQUIRE(client->device);
  std::uint32_t flags = 0;
  client->device->submit(vfio::GetInfo{},
                         [&flags](const vfio::Reply& reply) { flags = std::get<vfio::Info>(*reply).flags; });
  return vfio::slice_of(flags);
}

} // namespace

TEST_CASE("each client of a shared device has the lowest slice that is free, and an exclusive one none") {
  Lender lender;
  CHECK(slice(lender.attach(1, false)) == std::nullopt);
  lender.lent->end({id, 1}, true);
  lender.run();
  std::vector<std::shared_ptr<Lender::Client>> clients;
  for (std::uint64_t epoch = 2; epoch < 6; ++epoch) clients.push_back(lender.attach(epoch));
  for (unsigned i = 0; i < 4; ++i) CHECK(slice(clients[i]) == i);
  lender.leave(clients[2]);
  lender.leave(clients[1]);
  CHECK(slice(lender.attach(4)) == 1);
  CHECK(slice(lender.attach(6)) == 2);
  CHECK(slice(lender.attach(7)) == 4);
  CHECK(slice(clients[3]) == 3);
}

TEST_CASE("a slice is free once the windows of its client are unmapped") {
  Lender lender;
  const auto leaving = lender.attach(1), other = lender.attach(2);
  leaving->device->submit(vfio::DmaMap{Iova{0}, 4096, Access::read, {}},
                          [](const vfio::Reply& reply) { CHECK(reply.has_value()); });
  lender.device->manner = SmallDevice::Manner::later; // the unmap takes a while
  lender.leave(leaving);
  REQUIRE(lender.device->waiting.size() == 1);
  const auto next = lender.attach(3);
  CHECK_FALSE(next->device);
  lender.device->complete();
  lender.device->manner = SmallDevice::Manner::at_once;
  lender.run();
  CHECK(lender.device->windows.empty());
  CHECK(slice(next) == 0);
  CHECK(slice(other) == 1);
}

TEST_CASE("a client for which no slice is left waits until another leaves") {
  Lender lender;
  std::vector<std::shared_ptr<Lender::Client>> clients;
  for (std::uint64_t epoch = 1; epoch <= iova_slices; ++epoch) clients.push_back(lender.attach(epoch));
  CHECK(slice(clients.back()) == iova_slices - 1);
  const auto waiting = lender.attach(99);
  CHECK_FALSE(waiting->device);
  lender.leave(clients[20]);
  CHECK(slice(waiting) == 20);
}

TEST_CASE("a loan has one client: the newest") {
  Lender lender;
  const auto one = lender.attach(1), other = lender.attach(2), again = lender.attach(1);
  CHECK(one->disconnected);
  CHECK_FALSE(other->disconnected);
  CHECK(slice(again) == 0);
}

TEST_CASE("a device that is closed while it is being opened again stays closed") {
  Lender lender;
  const auto client = lender.attach(1, false);
  lender.opens = [&lender] { lender.device->manner = SmallDevice::Manner::later; };
  lender.leave(client);
  REQUIRE_FALSE(lender.device->waiting.empty()); // asked what it is
  bool closed = false;
  lender.lent->close([&closed] { closed = true; });
  lender.run();
  CHECK_FALSE(closed); // it is still waited for
  while (!lender.device->waiting.empty()) {
    lender.device->complete();
    lender.run();
  }
  CHECK(closed);
  CHECK(lender.lent->device() == nullptr);
}

TEST_CASE("a share that is returned while the end of another resets the device is ended all the same") {
  Lender lender;
  const auto first = lender.attach(1), second = lender.attach(2), third = lender.attach(3);
  for (const auto& client : {third, first, second}) client->gone(); // together
  lender.lent->end({id, 1}, false);
  lender.run();
  CHECK(first->disconnected);
  CHECK(second->disconnected);
  CHECK(third->disconnected);
}

TEST_CASE("a client of a shared device ends without a step that others would notice, and the last with all of them") {
  Lender lender;
  const auto first = lender.attach(1), second = lender.attach(2), third = lender.attach(3);
  const auto resets = [&lender] { return lender.device->kinds[vfio::Request(vfio::Reset{}).index()]; };
  for (std::uint32_t vector = 0; const auto& client : {first, second, third}) {
    vfio::SetIrqs irqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, vector++, 1, {}, {}};
    irqs.eventfds.push_back(make_eventfd().value());
    client->device->submit(std::move(irqs), [](const vfio::Reply& reply) { CHECK(reply.has_value()); });
  }
  lender.device->irqs.clear();
  lender.leave(first);
  lender.lent->end({id, 2}, false);
  lender.run();
  REQUIRE(lender.device->irqs.size() == 2); // each its own vector
  for (std::uint32_t vector = 0; const auto& irqs : lender.device->irqs)
    CHECK((irqs.count == 1 && irqs.start == vector++ && irqs.eventfds.empty()));
  CHECK(resets() == 0);
  CHECK_FALSE(third->disconnected);
  lender.leave(third);
  CHECK(resets() == 1);
}

TEST_CASE("ends are carried out one after the other") {
  Lender lender;
  const auto first = lender.attach(1), second = lender.attach(2);
  first->device->submit(vfio::DmaMap{Iova{0}, 4096, Access::read, {}}, [](const vfio::Reply&) {});
  lender.device->manner = SmallDevice::Manner::later;
  lender.leave(first);
  lender.leave(second);
  CHECK(lender.device->waiting.size() == 1); // the first one's unmap
  lender.device->manner = SmallDevice::Manner::at_once;
  lender.device->complete();
  lender.run();
  CHECK(lender.device->waiting.empty());
  CHECK(second->disconnected);
}

TEST_CASE("a client that left while it waited is cleaned up before the next one is served") {
  Lender lender;
  unsigned opened = 0, opened_when_served = 0;
  lender.opens = [&opened] { ++opened; };
  lender.attach(1)->gone();
  lender.lent->attach({id, 2}, true, [](const std::shared_ptr<vfio::Device>&, const std::function<void()>& gone) {
    gone();
    return [] {};
  });
  lender.lent->attach({id, 3}, true, [&](const std::shared_ptr<vfio::Device>&, const std::function<void()>&) {
    opened_when_served = opened;
    return [] {};
  });
  lender.run();
  CHECK(opened_when_served == 2); // after the ends of both
  CHECK(opened == 2);
}
