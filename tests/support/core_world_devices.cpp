// The world's devices and loan sockets: what a host's runtime does with them, and what must never be.
#include "core_world.hpp"

#include "bdf.hpp"

namespace smartio::core::test {

namespace {

/// Functions of one slot share an IOMMU group.
std::optional<unsigned> group_of(const std::string& address) {
  if (!parse_bdf(address)) return std::nullopt;
  return static_cast<unsigned>(std::stoul(address.substr(5, 2), nullptr, 16));
}

} // namespace

std::optional<Error> World::failure(std::uint64_t rarity) {
  if (!trouble || !dice.one_in(rarity)) return std::nullopt;
  return Error{make_error_code(dice.one_in(2) ? Errc::busy : Errc::timed_out), "it fails now and then"};
}

Result<Identity> World::identity(const std::string& address) {
  if (auto error = failure(20)) return std::unexpected(std::move(*error));
  return Identity{.vendor = 1, .name = "Disk", .iommu_group = group_of(address)};
}

/// One thing at a time.
void World::ask(DeviceId id, const char* what) {
  if (std::exchange(device(id).asked, true))
    fault(std::string("asked to ") + what + " a device that has not answered yet: " + to_string(id));
}

void World::on(unsigned host, ProbeDevice& e) {
  ask(e.device, "probe");
  later(host, dice.within(20), [this, e] {
    device(e.device).asked = false;
    return DeviceProbed{e.device, identity(e.address)};
  });
}

void World::on(unsigned host, FindDevices&) {
  later(host, dice.within(20), [] { return DevicesFound{}; });
}

void World::on(unsigned host, OpenDevice& e) {
  if (device(e.device).open) fault("an open device was opened: " + to_string(e.device));
  ask(e.device, "open");
  later(host, dice.within(50), [this, e] {
    device(e.device).asked = false;
    auto found = identity(e.address);
    device(e.device).open = found.has_value();
    device(e.device).address = e.address;
    return DeviceOpened{e.device, std::move(found)};
  });
}

void World::on(unsigned host, CloseDevice& e) {
  if (!device(e.device).users.empty()) fault("a device was closed under its borrower: " + to_string(e.device));
  ask(e.device, "close");
  later(host, dice.within(50), [this, e] {
    device(e.device).asked = false;
    device(e.device).open = false;
    return DeviceClosed{e.device, failure(30), "driver"};
  });
}

void World::on(unsigned host, ScanHost& e) {
  later(host, dice.within(20), [e] {
    return HostScanned{e.request, std::vector<std::vector<std::string>>(e.rules.size())};
  });
}

void World::on(unsigned host, ReadConfig& e) {
  later(host, dice.within(100), [this, e] {
    auto error = failure(5);
    return ConfigRead{e.request, error ? Result<std::string>(std::unexpected(*error)) : Result<std::string>("8680")};
  });
}

/// The steps of end_of_loan.hpp: nobody new from here on, the windows go, the clients are told and given 500 ms, the
/// device is cleaned.
void World::on(unsigned host, EndLoan& e) {
  auto& d = device(e.loan.device);
  auto& user = d.users.try_emplace(e.loan.epoch, Device::User{~0U, hosts[host].node->is_shared(e.loan)}).first->second;
  if (user.ending || d.ended.contains(e.loan.epoch)) fault("a loan was ended twice: " + word(e.loan));
  user.ending = true;
  ++ends;
  later(host, dice.within(100), [this, host, loan = e.loan, last = e.last] {
    auto& ending = device(loan.device).users.at(loan.epoch);
    ending.windows = false;
    ending.told = true;
    ending.patience = clock.after(milliseconds{500}, [this, host, life = hosts[host].life, loan, last] {
      if (hosts[host].life == life) cleaned(host, loan, last);
    });
    return TellClients{loan};
  });
}

void World::on(unsigned, ClientsReleased& e) {
  const auto user = device(e.loan.device).users.find(e.loan.epoch);
  if (user != device(e.loan.device).users.end() && user->second.told) clock.hurry(user->second.patience);
}

void World::cleaned(unsigned host, LoanId loan, bool last) {
  later(host, dice.within(50), [this, loan, last] {
    auto& d = device(loan.device);
    const auto user = d.users.extract(loan.epoch);
    d.ended.insert(loan.epoch);
    if (user.mapped().windows) fault("a window is left after the end of " + word(loan));
    if (const auto borrower = user.mapped().host; borrower < hosts.size())
      later(borrower, dice.within(20), [loan] { return FabricLost{loan, "the connection to the device ended"}; });
    return LoanEnded{loan, last ? failure(15) : std::nullopt};
  });
}

/// Whether the lender lets this loan's holder in: by its nonce on one host, by its link over a bridge.
bool World::admitted(unsigned host, const LoanId& loan, const Socket& socket) {
  const auto& lender = hosts[host_of(lender_of(loan.device))];
  if (!lender.node) return false;
  if (lender.boot_id == hosts[host].boot_id) return lender.node->admits(loan, socket.nonce);
  const auto found = hosts[host].links.find(socket.link);
  if (found == hosts[host].links.end() || connections[found->second].silent) return false;
  const auto& both = connections[found->second].ends;
  const auto& far = both[both[0].link == socket.link ? 1 : 0];
  return far.open && lender.node->admits(loan, far.link);
}

void World::attach(unsigned host, const LoanId& loan, bool shared) {
  auto& lender = hosts[host_of(lender_of(loan.device))];
  auto& d = device(loan.device);
  if (!d.open) fault("a device was lent that is not open: " + word(loan));
  if (d.ended.contains(loan.epoch)) fault("a device was reached after the end of " + word(loan));
  if (lender.node->is_shared(loan) != shared) fault("one's own device is another one's share: " + word(loan));
  for (const auto& [epoch, other] : d.users)
    if (epoch != loan.epoch && !(shared && other.shared)) fault("a device was lent twice: " + word(loan));
  for (const auto& [id, companion] : lender.devices)
    for (const auto& [epoch, other] : companion.users)
      if (id != loan.device && other.host < hosts.size() && other.host != host && group_of(d.address) &&
          group_of(companion.address) == group_of(d.address))
        fault("functions of one group were lent to two nodes: " + word(loan));
  const auto user = d.users.try_emplace(loan.epoch, Device::User{host, shared}).first;
  if (user->second.ending) fault("a device was reached while a loan ended: " + word(loan));
  if (user->second.host != host) fault("a loan was used by another node: " + word(loan));
}

/// The borrower's clients are gone, so the lender unmaps what they had mapped.
void World::detach(unsigned host, const LoanId& loan) {
  auto& users = device(loan.device).users;
  if (const auto user = users.find(loan.epoch); user != users.end() && user->second.host == host)
    user->second.windows = false;
}

void World::on(unsigned host, OpenLoan& e) {
  if (!hosts[host].sockets.try_emplace(e.loan, Socket{e.link, e.nonce, e.shared}).second)
    return fault("a loan was opened twice: " + word(e.loan));
  ++loans;
  clock.after(dice.within(30), [this, host, loan = e.loan, life = hosts[host].life] {
    const auto found = hosts[host].sockets.find(loan);
    if (found == hosts[host].sockets.end() || hosts[host].life != life || found->second.closing) return;
    found->second.open = admitted(host, loan, found->second);
    if (!found->second.open)
      return tell(host, LoanOpened{loan, std::unexpected(Error{make_error_code(Errc::peer_down), "not let in"})});
    attach(host, loan, found->second.shared);
    tell(host, LoanOpened{loan, "/" + word(loan)});
  });
}

void World::on(unsigned host, CloseLoan& e) {
  if (const auto found = hosts[host].sockets.find(e.loan); found != hosts[host].sockets.end())
    if (std::exchange(found->second.closing, true)) fault("a loan was closed twice: " + word(e.loan));
  const auto& users = device(e.loan.device).users;
  if (const auto user = users.find(e.loan.epoch); e.orderly && user != users.end() && user->second.windows)
    fault("a client was told that its memory is free while the device reaches it: " + word(e.loan));
  later(host, dice.within(dice.one_in(4) ? 500 : 10), [this, host, loan = e.loan] {
    hosts[host].sockets.erase(loan);
    detach(host, loan);
    return LoanClosed{loan};
  });
}

void World::use(unsigned host, const LoanId& loan) {
  const auto& socket = hosts[host].sockets.at(loan);
  if (!socket.open || socket.closing || !admitted(host, loan, socket)) return;
  attach(host, loan, socket.shared);
  device(loan.device).users.at(loan.epoch).windows = true;
  tell(host, UsageChanged{loan, Usage{.client = "libsmartio", .pid = 1, .windows = 1}});
}

void World::intrude(unsigned host, const LoanId& loan) {
  const auto& lender = hosts[host_of(lender_of(loan.device))];
  if (hosts[host].sockets.contains(loan) || &lender == &hosts[host]) return;
  const auto& users = device(loan.device).users;
  const auto user = users.find(loan.epoch);
  if (!lender.node || user == users.end() || user->second.host == host) return;
  for (const auto& [link, index] : hosts[host].links)
    for (const auto& end : connections[index].ends)
      if (end.host != user->second.host && lender.node->admits(loan, nonce_of(end.link)))
        fault("a loan was opened by a stranger: " + word(loan));
}

} // namespace smartio::core::test
