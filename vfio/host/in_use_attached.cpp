// What is attached to a network interface or an RDMA device and shows in no file: XDP programs, traffic control,
// sockets of AF_XDP, and whoever in the kernel has queues of an RDMA device. Asked over netlink.
#include "holders.hpp"
#include "in_use_parts.hpp"
#include "netlink.hpp"

#include "result.hpp"

#include <algorithm>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/xdp_diag.h>
#include <rdma/rdma_netlink.h>
#include <set>
#include <sys/socket.h>

namespace smartio::vfio::host {
namespace {

using Uses = std::vector<std::string>;

/// The bodies of the answers of that type.
std::vector<std::string> answers_to(const System& system, const Question& question, unsigned type) {
  std::vector<std::string> bodies;
  const auto answer = system.ask_netlink(question);
  for (const auto& message : messages_in(answer))
    if (message.type == type) bodies.emplace_back(message.body);
  return bodies;
}

std::string_view text_in(std::string_view body) { return body.substr(0, body.find('\0')); }

/// Documentation/netlink/specs/rt-link.yaml
void find_xdp(const System& system, const Child& child, int index, Uses& uses) {
  ::ifinfomsg wanted{};
  wanted.ifi_index = index;
  for (const auto& body : answers_to(system, {NETLINK_ROUTE, RTM_GETLINK, false, bytes_of(wanted)}, RTM_NEWLINK)) {
    const auto link = start_of<::ifinfomsg>(body);
    const auto xdp = attribute(after<::ifinfomsg>(body), IFLA_XDP);
    const auto attached = start_of<std::uint8_t>(attribute(xdp, IFLA_XDP_ATTACHED)).value_or(XDP_ATTACHED_NONE);
    if (!link || link->ifi_index != index || attached == XDP_ATTACHED_NONE) continue;
    const auto id = start_of<std::uint32_t>(attribute(xdp, IFLA_XDP_PROG_ID));
    uses.push_back(fmt::format("{} has an XDP program{}", child.name, id ? fmt::format(", id {}", *id) : ""));
  }
}

/// What somebody has put there to look at packets; whatever the kernel itself puts on an interface is for sending.
void find_traffic_control(const System& system, const Child& child, int index, Uses& uses) {
  ::tcmsg wanted{};
  wanted.tcm_ifindex = index;
  wanted.tcm_parent = TC_H_CLSACT; // the same number as that of `ingress`
  for (const auto& body : answers_to(system, {NETLINK_ROUTE, RTM_GETQDISC, false, bytes_of(wanted)}, RTM_NEWQDISC)) {
    const auto qdisc = start_of<::tcmsg>(body);
    const auto kind = text_in(attribute(after<::tcmsg>(body), TCA_KIND));
    if (qdisc && qdisc->tcm_ifindex == index && (kind == "clsact" || kind == "ingress"))
      uses.push_back(fmt::format("{0} has traffic control (tc qdisc del dev {0} {1} ends that)", child.name, kind));
  }
}

/// net/xdp/xsk_diag.c: all such sockets of this network namespace.
void find_xdp_sockets(const Root& root, const System& system, const Child& child, int index, Uses& uses) {
  ::xdp_diag_req wanted{};
  wanted.sdiag_family = AF_XDP;
  wanted.xdiag_show = XDP_SHOW_INFO;
  const Question question{NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, true, bytes_of(wanted)};
  for (const auto& body : answers_to(system, question, SOCK_DIAG_BY_FAMILY)) {
    const auto socket = start_of<::xdp_diag_msg>(body);
    const auto bound = start_of<::xdp_diag_info>(attribute(after<::xdp_diag_msg>(body), XDP_DIAG_INFO));
    if (!socket || !bound || bound->ifindex != static_cast<std::uint32_t>(index)) continue;
    const auto holders = socket_holders(root, socket->xdiag_ino);
    uses.push_back(fmt::format("{} has an AF_XDP socket{}{}", child.name, holders.empty() ? "" : " of ",
                               fmt::join(holders, ", ")));
  }
}

constexpr std::uint16_t rdma_type(unsigned command) {
  return static_cast<std::uint16_t>(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command));
}

/// drivers/infiniband/core/nldev.c numbers the devices.
std::optional<std::uint32_t> rdma_index(const System& system, const Child& child) {
  constexpr auto type = rdma_type(RDMA_NLDEV_CMD_GET);
  for (const auto& body : answers_to(system, {NETLINK_RDMA, type, true, ""}, type))
    if (text_in(attribute(body, RDMA_NLDEV_ATTR_DEV_NAME)) == child.name)
      return start_of<std::uint32_t>(attribute(body, RDMA_NLDEV_ATTR_DEV_INDEX));
  return std::nullopt;
}

/// Modules that have queues of every device: the core's for management, IPoIB's, and drivers' own.
bool belongs_to_device(std::string_view module, const Function& function) {
  return module == "ib_core" || module == "ib_ipoib" || module.ends_with("_ib") || module.starts_with("hns_roce") ||
         module == function.driver;
}

/// The modules that have any of those: queue pairs, or what listens and connects.
void find_modules(const System& system, std::uint32_t index, unsigned command, std::uint16_t table,
                  std::set<std::string>& modules) {
  const ::nlattr header{.nla_len = NLA_HDRLEN + sizeof index, .nla_type = RDMA_NLDEV_ATTR_DEV_INDEX};
  const auto type = rdma_type(command);
  for (const auto& body : answers_to(system, {NETLINK_RDMA, type, true, bytes_of(header) + bytes_of(index)}, type))
    for (const auto& entry : attributes_in(attribute(body, table)))
      if (const auto name = text_in(attribute(entry.body, RDMA_NLDEV_ATTR_RES_KERN_NAME)); !name.empty())
        modules.emplace(name);
}

void find_rdma_users(const Function& function, const System& system, const Child& child, Uses& uses) {
  const auto index = rdma_index(system, child);
  if (!index) return;
  std::set<std::string> modules;
  find_modules(system, *index, RDMA_NLDEV_CMD_RES_QP_GET, RDMA_NLDEV_ATTR_RES_QP, modules);
  find_modules(system, *index, RDMA_NLDEV_CMD_RES_CM_ID_GET, RDMA_NLDEV_ATTR_RES_CM_ID, modules);
  for (const auto& module : modules)
    if (!belongs_to_device(module, function))
      uses.push_back(fmt::format("{} is used by the kernel's {}", child.name, module));
}

} // namespace

void find_attached(const Root& root, const Function& function, const std::vector<Child>& children, const System& system,
                   Uses& uses) {
  for (const auto& child : children) {
    if (child.subsystem == "infiniband") find_rdma_users(function, system, child, uses);
    const auto index = child.subsystem == "net" ? read_number(child.folder + "/ifindex") : std::nullopt;
    if (!index || *index == 0 || *index > INT32_MAX) continue;
    const auto number = static_cast<int>(*index);
    find_xdp(system, child, number, uses);
    find_traffic_control(system, child, number, uses);
    find_xdp_sockets(root, system, child, number, uses);
  }
}

} // namespace smartio::vfio::host
