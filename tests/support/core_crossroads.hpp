// Node 8 among four neighbours, so that whatever one of them may say another one can try: it lends 80000 and 80001 to
// nodes 4 and 5, and borrows 60000 and 70000 from nodes 6 and 7. All on one host.
#pragma once

#include "core_bench.hpp"

namespace smartio::core::test {

/// The links to them; one whose hello is still to come, one that is closed, one that never was.
inline constexpr LinkId four = 16, five = 17, six = 18, seven = 19, early = 20, closed = 21, unknown = 99;

class Crossroads : public Bench {
public:
  const DeviceId first{0x80000}, second{0x80001}, of_six{0x60000}, of_seven{0x70000};

  Crossroads() : Bench(NodeId{8}) {
    connect(NodeId{4}, four);
    connect(NodeId{5}, five);
    accept(NodeId{6}, six);
    accept(NodeId{7}, seven);
    on(Accepted{early, nonce_of(early)});
    on(Accepted{closed, nonce_of(closed)});
    on(LinkDown{closed, "cut"});
    lend_out("vfio-user:/0");
    lend_out("vfio-user:/1");
  }

  static Hello hello(NodeId from, const std::string& boot_id = "here") {
    return {.node = from,
            .to = NodeId{8},
            .boot_id = boot_id,
            .fabric_token = std::string(32, 'f'),
            .nonce = nonce_of(number(from))};
  }
  /// A neighbour that borrows from us.
  void connect(NodeId peer, LinkId link, const std::string& boot_id = "here") {
    command("connect", {{"node", number(peer)}, {"address", fmt::format("h:{}", number(peer))}});
    on(Dialled{peer, link, nonce_of(link)});
    receive(link, hello(peer, boot_id));
  }
  /// A neighbour that lends to us.
  void accept(NodeId peer, LinkId link) {
    on(Accepted{link, nonce_of(link)});
    receive(link, hello(peer));
    receive(link, Devices{{offer(make_device_id(peer, 0))}, {}});
  }
  static DeviceEntry offer(DeviceId id) {
    return {.id = id, .address = "vfio-user:/theirs", .name = "Disk", .state = DeviceState::available};
  }
  static Identity disk(std::optional<unsigned> group = std::nullopt) {
    return {.vendor = 1, .name = "Disk", .iommu_group = group};
  }
  /// Adds a device of ours.
  DeviceId add(const std::string& address, std::optional<unsigned> group = std::nullopt) {
    command("add", {{"device", address}});
    const auto id = find<ProbeDevice>()->device;
    on(DeviceProbed{id, disk(group)});
    return id;
  }
  DeviceId lend_out(const std::string& address, std::optional<unsigned> group = std::nullopt) {
    const auto id = add(address, group);
    command("available", {{"device", address}});
    on(DeviceOpened{id, disk(group)});
    return id;
  }

  /// Asks for a device of ours: the loan's epoch, 0 if it is refused.
  std::uint64_t lend(LinkId to, DeviceId device, bool shared = false) {
    receive(to, BorrowRequest{++number_, device, shared});
    for (const auto& answer : sent<Answer>(to))
      if (answer.number == number_ && answer.code == Errc{}) return answer.epoch;
    return 0;
  }
  /// The borrower returns it, and the device is cleaned up.
  void give_back(LinkId from, LoanId loan) {
    receive(from, ReturnRequest{++number_, loan.device, loan.epoch});
    on(TellClients{loan});
    receive(from, Released{loan.device, loan.epoch});
    on(LoanEnded{loan, std::nullopt});
  }
  /// Asks the lender for its device: the number of the request.
  std::uint64_t ask(DeviceId device, LinkId lender) {
    command("borrow", {{"device", to_string(device)}});
    const auto asked = sent<BorrowRequest>(lender);
    return asked.empty() ? 0 : asked.front().number;
  }
  void borrow(LoanId loan, LinkId lender) {
    receive(lender, Answer{ask(loan.device, lender), loan.epoch, {}, {}});
    on(LoanOpened{loan, "/loan.sock"});
  }
  /// The lender takes it back, and our clients let go.
  void taken_back(LoanId loan, LinkId lender) {
    receive(lender, TakenBack{loan.device, loan.epoch, "wanted back"});
    on(LoanClosed{loan});
  }

  /// Whether heartbeats go there: when their timer fires.
  bool beats(LinkId link) {
    if (!armed(Timer::Kind::heartbeat, 0)) return false;
    fire(Timer::Kind::heartbeat, 0);
    return sent<Heartbeat>(link).size() == 1;
  }

private:
  std::uint64_t number_ = 1000;
};

} // namespace smartio::core::test
