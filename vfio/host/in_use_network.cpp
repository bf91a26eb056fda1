// Network interfaces: used when they have a master, carry another interface, have a packet or CAN socket, are up with
// an address or a route, or are in another network namespace. An interface that is merely up is not: many are, with
// nothing behind them.
#include "holders.hpp"
#include "in_use_parts.hpp"

#include "result.hpp"
#include "text.hpp"

#include <algorithm>

namespace smartio::vfio::host {
namespace {

constexpr unsigned flag_up = 1; ///< IFF_UP of linux/if.h

enum class Routes { none, some, to_everywhere };

/// Routes of the main table: "Iface Destination Gateway Flags RefCnt Use Metric Mask ...", numbers in hex.
Routes ipv4_routes(const Root& root, const std::string& interface) {
  auto found = Routes::none;
  const auto text = read_table(root.proc + "/net/route").value_or("");
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    if (words.size() < 8 || words[0] != interface) continue;
    if (parse_number(words[1], 16) == 0 && parse_number(words[7], 16) == 0) return Routes::to_everywhere;
    found = Routes::some;
  }
  return found;
}

/// What every interface has that is up: fe80::/10 and ff00::/8.
bool is_automatic(std::string_view address) {
  const auto start = parse_number(address.substr(0, 4), 16).value_or(0);
  return (start & 0xffc0) == 0xfe80 || start >= 0xff00;
}

/// "DESTINATION LENGTH SOURCE LENGTH NEXT-HOP METRIC REFCNT USE FLAGS Iface", numbers in hex.
Routes ipv6_routes(const Root& root, const std::string& interface) {
  auto found = Routes::none;
  const auto text = read_table(root.proc + "/net/ipv6_route").value_or("");
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    if (words.size() < 10 || words[9] != interface || is_automatic(words[0])) continue;
    if (parse_number(words[1], 16) == 0) return Routes::to_everywhere;
    found = Routes::some;
  }
  return found;
}

/// "ADDRESS INDEX LENGTH SCOPE FLAGS Iface".
bool has_ipv6_address(const Root& root, const std::string& interface) {
  const auto text = read_table(root.proc + "/net/if_inet6").value_or("");
  return std::ranges::any_of(lines_of(text), [&interface](std::string_view line) {
    const auto words = words_of(line);
    return words.size() >= 6 && words[5] == interface && !is_automatic(words[0]);
  });
}

std::string use_when_up(const Root& root, const std::string& interface, const System& system) {
  const auto routes = std::max(ipv4_routes(root, interface), ipv6_routes(root, interface));
  if (routes == Routes::to_everywhere) return interface + " is up and has the default route";
  if (routes == Routes::some) return interface + " is up and has routes";
  if (system.has_ipv4_address(interface) || has_ipv6_address(root, interface))
    return interface + " is up and has an address";
  return {};
}

void find_others(const Child& child, std::vector<std::string>& uses) {
  if (const auto master = link_name(child.folder + "/master"))
    uses.push_back(fmt::format("{} is a member of {}", child.name, *master));
  for (const auto& name : list(child.folder))
    if (name.starts_with("upper_") && link_name(child.folder + "/master") != name.substr(6))
      uses.push_back(fmt::format("{} carries {}", child.name, name.substr(6)));
}

/// net/packet/af_packet.c, packet_seq_show: "sk RefCnt Type Proto Iface R Rmem User Inode", the interface's index.
void find_packet_sockets(const Root& root, const Child& child, std::vector<std::string>& uses) {
  const auto index = read_number(child.folder + "/ifindex");
  if (!index) return;
  const auto text = read_table(root.proc + "/net/packet").value_or("");
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    if (words.size() < 9 || parse_number(words[4]) != index) continue;
    const auto holders = socket_holders(root, parse_number(words[8]).value_or(0));
    uses.push_back(
        fmt::format("{} has a packet socket{}{}", child.name, holders.empty() ? "" : " of ", fmt::join(holders, ", ")));
  }
}

/// net/can/proc.c: whoever receives from a CAN interface; "vcan0     000    00000000  ffff...  ffff...  7  raw".
void find_can_receivers(const Root& root, const Child& child, std::vector<std::string>& uses) {
  for (const auto* kind : {"all", "fil", "inv", "sff", "eff", "err"}) {
    const auto text = read_text(root.proc + "/net/can/rcvlist_" + kind).value_or("");
    const auto is_here = [&child](std::string_view line) {
      const auto words = words_of(line);
      return words.size() >= 7 && words[0] == child.name;
    };
    if (std::ranges::any_of(lines_of(text), is_here)) return uses.push_back(child.name + " has a CAN socket");
  }
}

/// Drivers that let a program, or a guest, drive the function: they make no interface.
bool is_for_programs(const std::string& driver) {
  constexpr std::string_view known[]{"vfio-pci", "pci-stub", "uio_pci_generic", "igb_uio", "pciback"};
  return std::ranges::find(known, driver) != std::end(known);
}

/// sysfs shows interfaces of one network namespace only.
void find_elsewhere(const Function& function, const std::vector<Child>& children, std::vector<std::string>& uses) {
  const auto makes_interface = [](const Child& child) {
    return child.subsystem == "net" || child.subsystem == "infiniband";
  };
  if (function.class_code >> 16 != 0x02 || !function.driver || is_for_programs(*function.driver)) return;
  if (std::ranges::any_of(children, makes_interface)) return;
  uses.push_back(
      fmt::format("the network interface that {} made of {} is not to be seen here: it is in another network "
                  "namespace",
                  *function.driver, short_name(function.bdf)));
}

} // namespace

void find_network_uses(const Root& root, const Function& function, const std::vector<Child>& children,
                       const System& system, std::vector<std::string>& uses) {
  find_elsewhere(function, children, uses);
  for (const auto& child : children) {
    if (child.subsystem != "net") continue;
    find_others(child, uses);
    find_packet_sockets(root, child, uses);
    find_can_receivers(root, child, uses);
    if ((read_number(child.folder + "/flags", 16).value_or(0) & flag_up) == 0) continue;
    if (auto use = use_when_up(root, child.name, system); !use.empty()) uses.push_back(std::move(use));
  }
}

} // namespace smartio::vfio::host
