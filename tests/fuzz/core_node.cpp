// A node's decisions as lender and borrower at once: commands, hostile peers, timers, bridges and devices, in any
// order, late, twice or wrongly. What must hold is in node_world.hpp.
#include "node_world.hpp"

#include "frame.hpp"

using namespace smartio;
using namespace smartio::core;
using namespace smartio::test;

namespace {

const std::string addresses[] = {"vfio-user:/d", "vfio-user:/e",       "0000:06:00.0",
                                 "0000:06:00.1", "vfio-user:relative", "vfio-user:/" + std::string(2000, 'x')};
const DeviceId devices[] = {DeviceId{0x80000}, DeviceId{0x80001}, DeviceId{0x40000},   DeviceId{0x40001},
                            DeviceId{0x80002}, DeviceId{0x50000}, DeviceId{0xffffffff}};
const NodeId nodes[] = {NodeId{4}, NodeId{5}, NodeId{8}, NodeId{9}, NodeId{0}};
const std::string bridges[] = {"0000:17:00.0", "0000:18:00.0"};
const char* const boots[] = {"here", "there"};

Error failure() { return {make_error_code(Errc::wrong_state), "it went wrong"}; }
DeviceId device(Line& line) { return line.of(devices); }
unsigned node(Line& line) { return static_cast<unsigned>(line.of(nodes)); }
LoanId loan(World& w, Line& line) {
  const LoanId any{device(line), line.next()};
  return w.loans.empty() || line.flag() ? any : line.of(w.loans);
}
Result<Identity> identity(Line& line) {
  if (line.flag()) return std::unexpected(failure());
  Identity found{.vendor = 1, .name = "Disk", .iommu_group = std::nullopt};
  if (line.flag()) found.iommu_group = 1;
  found.who.kind = line.flag() ? "network" : "disk";
  if (const auto serial = line.below(3); serial != 0) found.who.serials[nvme_serial] = serial == 1 ? "A" : "B";
  if (line.flag()) found.driver = "nvme";
  return found;
}
/// By name or by address, right or wrong.
Json which(Line& line) {
  const auto id = to_string(device(line));
  return {{"device", line.flag() ? line.of(addresses) : id},
          {"force", line.flag()},
          {"shared", line.flag()},
          {"opened", line.flag()}};
}
Json filter(Line& line) { return {{"ids", line.flag() ? "" : "::0108"}, {"slot", line.flag() ? "06:00" : ""}}; }

constexpr auto commands = std::to_array<Step<World>>({
    {"add",
     [](World& w, Line& l) {
       w.command("add", {{"device", l.of(addresses)}});
     }},
    {"add_filter", [](World& w, Line& l) { w.command("add-filter", filter(l)); }},
    {"ask", // any command with any arguments
     [](World& w, Line& l) {
       const auto name = l.rest().substr(0, l.rest().find('{'));
       if (auto arguments = parse_object(l.rest().substr(name.size())))
         w.command(std::string(name.substr(std::min<std::size_t>(name.find_first_not_of(' '), name.size()))),
                   std::move(*arguments));
     }},
    {"available", [](World& w, Line& l) { w.command("available", which(l)); }},
    {"available_filter", [](World& w, Line& l) { w.command("available-filter", filter(l)); }},
    {"borrow", [](World& w, Line& l) { w.command("borrow", which(l)); }},
    {"config_ntb",
     [](World& w, Line& l) {
       w.command("config", {{"option", "ntb"}, {"value", l.of(bridges)}});
     }},
    {"config_space",
     [](World& w, Line& l) {
       w.command("config-space", {{"device", to_string(device(l))}, {"form", l.flag() ? "raw" : "vfio"}});
     }},
    {"connect",
     [](World& w, Line& l) {
       w.command("connect", {{"node", node(l)}, {"address", l.flag() ? "" : "h:1"}, {"wait", l.flag()}});
     }},
    {"control_closed", [](World& w, Line& l) { w.on(ControlClosed{1 + l.below(3)}); }},
    {"disconnect", [](World& w, Line& l) { w.command("disconnect", {{"node", node(l)}}); }},
    {"open", [](World& w, Line& l) { w.command("open", which(l), 1 + l.below(3)); }},
    {"remove", [](World& w, Line& l) { w.command("remove", which(l)); }},
    {"remove_filter", [](World& w, Line& l) { w.command("remove-filter", filter(l)); }},
    {"restart", [](World& w, Line&) { w.restart(); }},
    {"return", [](World& w, Line& l) { w.command("return", which(l), l.below(3)); }},
    {"scan", [](World& w, Line&) { w.command("scan", Json::object()); }},
    {"show", [](World& w, Line& l) { w.command("show", which(l)); }},
    {"stop", [](World& w, Line&) { w.on(Stopping{}); }},
    {"unavailable", [](World& w, Line& l) { w.command("unavailable", which(l)); }},
    {"unavailable_filter", [](World& w, Line& l) { w.command("unavailable-filter", filter(l)); }},
});

/// One device of a lender, as it tells of it.
DeviceEntry entry(Line& line) {
  DeviceEntry entry{.id = device(line), .address = line.of(addresses), .name = "Disk"};
  entry.address.resize(std::min<std::size_t>(entry.address.size(), 20));
  if (!entry.address.starts_with('v')) entry.address = "0000:06:00.0";
  entry.state = static_cast<DeviceState>(line.below(4));
  return entry;
}

/// The number of something the node asked on that link.
std::uint64_t asked(World& w, LinkId link, Line& line) {
  const auto number = line.next();
  const auto found = w.asked.find(link);
  if (found == w.asked.end() || found->second.empty()) return number;
  const auto place = found->second.begin() + static_cast<long>(number % found->second.size());
  const auto answered = *place;
  found->second.erase(place);
  return answered;
}

constexpr auto messages = std::to_array<Step<World>>({
    {"accept", [](World& w, Line&) { w.accept(); }},
    {"answer",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto number = asked(w, link, l);
       w.receive(link, Answer{number, l.next(), static_cast<Errc>(l.below(11)), "no"});
     }},
    {"borrow_request",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto number = l.next();
       w.receive(link, BorrowRequest{number, device(l), l.flag()});
     }},
    {"config_answer",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       w.receive(link, ConfigAnswer{asked(w, link, l), "0102", static_cast<Errc>(l.below(11)), "no"});
     }},
    {"config_request",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto number = l.next();
       w.receive(link, ConfigRequest{number, device(l), static_cast<ConfigForm>(l.below(3))});
     }},
    {"devices",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       Devices told;
       for (auto count = l.below(4); count > 0; --count) told.changed.push_back(entry(l));
       for (auto count = l.below(3); count > 0; --count) told.removed.push_back(device(l));
       w.receive(link, std::move(told));
     }},
    {"dial_failed", [](World& w, Line& l) { w.on(DialFailed{w.take(w.dials, l).value_or(NodeId{4}), "no"}); }},
    {"dialled", [](World& w, Line& l) { w.dialled(w.take(w.dials, l).value_or(NodeId{4})); }},
    {"heartbeat",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       w.receive(link, Heartbeat{l.flag()});
     }},
    {"hello",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       Hello hello{.node = l.of(nodes), .to = l.flag() ? l.of(nodes) : World::self, .boot_id = l.of(boots)};
       if (hello.node == NodeId{}) return;
       hello.fabric_token = std::string(l.flag() ? 0 : 32, 'e');
       hello.nonce = std::string(64, 'd');
       hello.version = 1 + l.below(3) / 2;
       w.receive(link, std::move(hello));
     }},
    {"json",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       if (auto message = decode(l.rest())) w.receive(link, std::move(*message));
     }},
    {"link_down", [](World& w, Line& l) { w.link_down(w.link(l)); }},
    {"refused", [](World& w, Line& l) { w.receive(w.link(l), Refused{"no"}); }},
    {"released",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto ended = loan(w, l);
       w.receive(link, Released{ended.device, ended.epoch});
     }},
    {"return_request",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto number = l.next();
       const auto ended = loan(w, l);
       w.receive(link, ReturnRequest{number, ended.device, ended.epoch});
     }},
    {"taken_back",
     [](World& w, Line& l) {
       const auto link = w.link(l);
       const auto ended = loan(w, l);
       w.receive(link, TakenBack{ended.device, ended.epoch, "no"});
     }},
});

std::optional<Error> maybe(Line& line) { return line.flag() ? std::optional(failure()) : std::nullopt; }

constexpr auto outcomes = std::to_array<Step<World>>({
    {"appeared", [](World& w, Line& l) { w.on(DeviceAppeared{l.of(addresses)}); }},
    {"bridge",
     [](World& w, Line& l) {
       BridgeChanged changed{.address = l.of(bridges), .peer = l.of(nodes), .up = l.flag(), .reason = "no"};
       if (changed.peer == NodeId{}) changed.up = false;
       w.on(std::move(changed));
     }},
    {"closed", [](World& w, Line& l) { w.on(DeviceClosed{w.take(w.closes, l).value_or(devices[0]), maybe(l), "nvme"}); }},
    {"config_read",
     [](World& w, Line& l) {
       const auto read = w.take(w.reads, l).value_or(1);
       if (l.flag()) return w.on(ConfigRead{read, std::unexpected(failure())});
       w.on(ConfigRead{read, "0102"});
     }},
    {"ended", [](World& w, Line& l) {
       if (const auto loan = w.take(w.ends, l)) w.on(LoanEnded{*loan, maybe(l)});
     }},
    {"fabric_lost", [](World& w, Line& l) { w.on(FabricLost{loan(w, l), "no"}); }},
    {"fires",
     [](World& w, Line& l) {
       if (w.timers.empty()) return;
       const auto timer = l.of(w.timers);
       w.on(TimerFired{timer, std::chrono::milliseconds(l.next() % 2 * 1000)});
     }},
    {"fires_late",
     [](World& w, Line& l) { w.on(TimerFired{{static_cast<Timer::Kind>(l.below(6)), l.next()}}); }},
    {"found",
     [](World& w, Line& l) {
       require(w.finds <= 1);
       DevicesFound found;
       for (auto count = l.below(3); count > 0; --count)
         found.seen.push_back({l.of(addresses), {"disk", {{nvme_serial, l.flag() ? "B" : "A"}}}});
       w.finds = 0;
       w.on(std::move(found));
     }},
    {"identified", [](World& w, Line& l) { w.on(DeviceIdentified{l.of(addresses)}); }},
    {"loan_closed", [](World& w, Line& l) { w.on(LoanClosed{w.take(w.loan_closes, l).value_or(LoanId{devices[0], 1})}); }},
    {"loan_opened",
     [](World& w, Line& l) {
       const auto opened = w.take(w.loan_opens, l).value_or(LoanId{devices[0], 1});
       if (l.flag()) return w.on(LoanOpened{opened, std::unexpected(failure())});
       w.on(LoanOpened{opened, "/run/cntrl"});
     }},
    {"lost", [](World& w, Line& l) { w.on(DeviceLost{device(l), "no"}); }},
    {"opened",
     [](World& w, Line& l) {
       const auto opened = w.take(w.opens, l).value_or(devices[0]);
       w.on(DeviceOpened{opened, identity(l)});
     }},
    {"probed",
     [](World& w, Line& l) {
       const auto probed = w.take(w.probes, l).value_or(devices[0]);
       w.on(DeviceProbed{probed, identity(l)});
     }},
    {"probed_elsewhere",
     [](World& w, Line& l) {
       const auto probed = w.take(w.probes, l).value_or(devices[0]);
       w.on(DeviceProbed{probed, std::unexpected(failure()), l.of(addresses)});
     }},
    {"scanned",
     [](World& w, Line& l) {
       const auto scan = w.take(w.scans, l);
       if (!scan) return;
       if (l.flag()) return w.on(HostScanned{scan->request, std::unexpected(failure())});
       std::vector<std::vector<std::string>> matches(scan->rules.size());
       for (auto& found : matches)
         for (auto count = l.below(3); count > 0; --count) found.push_back(l.of(addresses));
       w.on(HostScanned{scan->request, std::move(matches)});
     }},
    {"tell_clients", [](World& w, Line& l) { w.on(TellClients{loan(w, l)}); }},
    {"usage",
     [](World& w, Line& l) {
       const auto used = loan(w, l);
       w.on(UsageChanged{used, {.client = l.flag() ? "vfio-user" : "", .pid = 5, .problem = l.flag() ? "no" : ""}});
     }},
    {"use_ended", [](World& w, Line& l) { w.on(UseEnded{loan(w, l), maybe(l)}); }},
    {"vanished", [](World& w, Line& l) { w.on(DeviceVanished{l.of(addresses), "no"}); }},
});

std::vector<Step<World>> all_steps() {
  std::vector<Step<World>> all(commands.begin(), commands.end());
  all.insert(all.end(), messages.begin(), messages.end());
  all.insert(all.end(), outcomes.begin(), outcomes.end());
  return all;
}
const auto steps = all_steps();

} // namespace

std::vector<std::string_view> test::script_steps() { return names_of(std::span(steps)); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  World world;
  play({reinterpret_cast<const char*>(data), size}, std::span(steps), world);
  world.finish();
  return 0;
}
