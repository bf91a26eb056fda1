// What is attached to interfaces and RDMA devices, as the kernel tells it over netlink; what it says may be anything.
#include "catch.hpp"
#include "fd.hpp"
#include "host/netlink.hpp"
#include "skipped.hpp"
#include "used_devices.hpp"

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/xdp_diag.h>
#include <map>
#include <net/if.h>
#include <rdma/rdma_netlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

using namespace smartio;
using namespace smartio::vfio::host;
using namespace testing;

namespace {

using namespace std::string_literals;

std::string padded(std::string bytes) { return bytes.append((4 - bytes.size() % 4) % 4, '\0'); }

std::string part(unsigned type, const std::string& body) {
  const ::nlattr header{static_cast<std::uint16_t>(sizeof header + body.size()), static_cast<std::uint16_t>(type)};
  return padded(bytes_of(header) + body);
}

std::string message(unsigned type, const std::string& body) {
  const ::nlmsghdr header{static_cast<std::uint32_t>(sizeof header + body.size()), static_cast<std::uint16_t>(type),
                          NLM_F_MULTI, 1, 0};
  return padded(bytes_of(header) + body);
}

std::string number(std::uint32_t value) { return bytes_of(value); }

std::string link_message(int index, const std::string& attributes) {
  ::ifinfomsg link{};
  link.ifi_index = index;
  return message(RTM_NEWLINK, bytes_of(link) + attributes);
}

std::string qdisc_message(int index, const std::string& kind) {
  ::tcmsg qdisc{};
  qdisc.tcm_ifindex = index;
  return message(RTM_NEWQDISC, bytes_of(qdisc) + part(TCA_KIND, kind + '\0'));
}

std::string xdp_socket(std::uint32_t index, std::uint32_t inode) {
  ::xdp_diag_msg socket{};
  socket.xdiag_ino = inode;
  return message(SOCK_DIAG_BY_FAMILY, bytes_of(socket) + part(XDP_DIAG_INFO, bytes_of(::xdp_diag_info{index, 0})));
}

/// Interface 2, of which the kernel answers what is there for the type of the question.
struct Asked : Interface {
  std::map<unsigned, std::string> answers;
  Asked() {
    tree.file(interface + "/ifindex", "2\n");
    system.ask_netlink = [this](const Question& question) { return answers[question.type]; };
  }
};

/// A program that lets all packets through, attached to this network namespace's loopback interface.
bool attach_xdp(int index) {
  const ::bpf_insn code[]{{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
                          {.code = BPF_JMP | BPF_EXIT}};
  ::bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_XDP;
  load.insn_cnt = 2;
  load.insns = reinterpret_cast<std::uintptr_t>(code);
  load.license = reinterpret_cast<std::uintptr_t>("GPL");
  const Fd program(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
  const auto xdp = part(IFLA_XDP_FD, bytes_of(program.get())) + part(IFLA_XDP_FLAGS, number(XDP_FLAGS_SKB_MODE));
  ::ifinfomsg link{};
  link.ifi_index = index;
  const auto answer =
      ask_netlink({NETLINK_ROUTE, RTM_SETLINK, false, bytes_of(link) + part(IFLA_XDP | NLA_F_NESTED, xdp)});
  const auto messages = messages_in(answer);
  return program && !messages.empty() && start_of<int>(messages.front().body) == 0;
}

constexpr unsigned rdma(unsigned command) { return RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, command); }

std::string resources(unsigned command, unsigned table, const std::vector<std::string>& owners) {
  std::string entries;
  for (const auto& owner : owners) entries += part(table + 1, part(RDMA_NLDEV_ATTR_RES_LQPN, number(1)) + owner);
  return message(rdma(command), part(RDMA_NLDEV_ATTR_DEV_INDEX, number(7)) + part(table | NLA_F_NESTED, entries));
}

std::string kernel(const std::string& module) { return part(RDMA_NLDEV_ATTR_RES_KERN_NAME, module + '\0'); }

} // namespace

TEST_CASE("an XDP program on an interface is a use of it") {
  Asked host;
  const auto xdp = [](unsigned attached, const std::string& more = "") {
    const auto mode = std::string(1, static_cast<char>(attached));
    return part(IFLA_IFNAME, "eth0\0"s) + part(IFLA_XDP | NLA_F_NESTED, part(IFLA_XDP_ATTACHED, mode) + more);
  };
  auto& answer = host.answers[RTM_GETLINK];
  answer = link_message(2, xdp(XDP_ATTACHED_DRV, part(IFLA_XDP_PROG_ID, number(17))));
  CHECK(host.uses() == Uses{"eth0 has an XDP program, id 17"});
  answer = link_message(2, xdp(XDP_ATTACHED_MULTI));
  CHECK(host.uses() == Uses{"eth0 has an XDP program"});
  for (const auto& none : {link_message(2, xdp(XDP_ATTACHED_NONE)), link_message(3, xdp(XDP_ATTACHED_DRV)),
                           link_message(2, ""), message(RTM_NEWADDR, answer.substr(16)), ""s}) {
    answer = none;
    CHECK(host.uses().empty());
  }
}

TEST_CASE("traffic control that somebody has put on an interface is a use of it, the queue that each has is none") {
  Asked host;
  for (const auto* kind : {"clsact", "ingress"}) {
    host.answers[RTM_GETQDISC] = qdisc_message(3, kind) + qdisc_message(2, kind);
    CHECK(host.uses() == Uses{"eth0 has traffic control (tc qdisc del dev eth0 "s + kind + " ends that)"});
  }
  for (const auto* kind : {"mq", "fq_codel", "pfifo_fast", "noqueue", "noop", "fq", "multiq", "clsactor", ""}) {
    host.answers[RTM_GETQDISC] = qdisc_message(2, kind);
    CHECK(host.uses().empty());
  }
}

TEST_CASE("an AF_XDP socket on an interface is a use of it, by whoever has it if that is to be seen") {
  Asked host;
  host.answers[SOCK_DIAG_BY_FAMILY] = xdp_socket(3, 50) + xdp_socket(2, 51) + message(NLMSG_DONE, number(0));
  CHECK(host.uses() == Uses{"eth0 has an AF_XDP socket"});
  add_process(host.tree, 71, "xdpsock");
  host.tree.link("proc/71/fd/4", "/socket:[51]");
  CHECK(host.uses() == Uses{"eth0 has an AF_XDP socket of process 71 (xdpsock)"});
}

TEST_CASE("a module of the kernel's that has queues of an RDMA device, or listens there, uses it") {
  Asked host;
  add_child(host.tree, device + "infiniband/mlx5_0", "infiniband");
  std::string asked_about;
  host.system.ask_netlink = [&](const Question& question) {
    if (question.type == rdma(RDMA_NLDEV_CMD_RES_QP_GET)) asked_about = question.body;
    return host.answers[question.type];
  };
  host.answers[rdma(RDMA_NLDEV_CMD_RES_QP_GET)] =
      resources(RDMA_NLDEV_CMD_RES_QP_GET, RDMA_NLDEV_ATTR_RES_QP,
                {kernel("ib_core"), kernel("mlx5_ib"), kernel("ib_ipoib"), kernel("igb"),
                 part(RDMA_NLDEV_ATTR_RES_PID, number(4)), kernel("nvme_rdma"), kernel("nvme_rdma")});
  host.answers[rdma(RDMA_NLDEV_CMD_RES_CM_ID_GET)] =
      resources(RDMA_NLDEV_CMD_RES_CM_ID_GET, RDMA_NLDEV_ATTR_RES_CM_ID, {kernel("rpcrdma"), kernel("nvme_rdma")});
  const auto named = [](const std::string& name) {
    return message(rdma(RDMA_NLDEV_CMD_GET),
                   part(RDMA_NLDEV_ATTR_DEV_INDEX, number(7)) + part(RDMA_NLDEV_ATTR_DEV_NAME, name + '\0'));
  };
  host.answers[rdma(RDMA_NLDEV_CMD_GET)] = named("mlx5_1");
  CHECK(host.uses().empty());
  host.answers[rdma(RDMA_NLDEV_CMD_GET)] = named("mlx5_1") + named("mlx5_0");
  CHECK(host.uses() == Uses{"mlx5_0 is used by the kernel's nvme_rdma", "mlx5_0 is used by the kernel's rpcrdma"});
  CHECK(asked_about == part(RDMA_NLDEV_ATTR_DEV_INDEX, number(7)));
}

TEST_CASE("an answer that ends anywhere, or says any length, is read as far as it makes sense") {
  const auto whole = link_message(2, part(IFLA_XDP, part(IFLA_XDP_ATTACHED, "\1"s)));
  Asked host;
  auto& answer = host.answers[RTM_GETLINK];
  for (std::size_t size = 0; size < whole.size(); ++size) {
    answer = whole.substr(0, size);
    CHECK(host.uses().empty());
  }
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (const char byte : {'\0', '\1', '\3', '\xff'}) {
      answer = whole;
      answer[at] = byte;
      CHECK(host.uses().size() <= 1);
    }
  answer = whole + std::string(1000, '\0') + whole;
  CHECK(host.uses().size() == 1);
  CHECK(messages_in(std::string(15, '\xff')).empty());
  CHECK(attributes_in("\4\0\1\0"s).size() == 1);
  CHECK(attributes_in("\3\0\1\0"s).empty());
}

TEST_CASE("this kernel answers for its loopback interface, and says no for one that is not there") {
  const auto index = ::if_nametoindex("lo");
  REQUIRE(index != 0);
  const auto ask = [](int number) {
    ::ifinfomsg wanted{};
    wanted.ifi_index = number;
    return ask_netlink({NETLINK_ROUTE, RTM_GETLINK, false, bytes_of(wanted)});
  };
  const auto answer = ask(static_cast<int>(index));
  const auto messages = messages_in(answer);
  REQUIRE(!messages.empty());
  CHECK(messages.front().type == RTM_NEWLINK);
  const auto attributes = after<::ifinfomsg>(messages.front().body);
  CHECK(attribute(attributes, IFLA_IFNAME) == "lo\0"s);
  CHECK(start_of<std::uint8_t>(attribute(attribute(attributes, IFLA_XDP), IFLA_XDP_ATTACHED)));
  const auto refused = ask(INT32_MAX);
  REQUIRE(messages_in(refused).size() == 1);
  CHECK(messages_in(refused).front().type == NLMSG_ERROR);
  CHECK(ask_netlink({-1, 0, false, ""}).empty());
  const auto list = ask_netlink({NETLINK_ROUTE, RTM_GETLINK, true, bytes_of(::ifinfomsg{})});
  REQUIRE(!messages_in(list).empty());
  CHECK(messages_in(list).back().type == NLMSG_DONE);
}

TEST_CASE("an XDP program that this kernel has on an interface is seen") {
  Uses uses;
  bool attached = false;
  std::jthread([&uses, &attached] { // which alone has another network namespace
    const int index = ::unshare(CLONE_NEWNET) == 0 ? static_cast<int>(::if_nametoindex("lo")) : 0;
    attached = index != 0 && attach_xdp(index);
    Interface host;
    host.tree.file(interface + "/ifindex", std::to_string(index) + '\n');
    host.system.ask_netlink = ask_netlink;
    if (attached) uses = host.uses();
  })
      .join();
  if (!attached) SKIPPED("no XDP program can be attached here");
  REQUIRE(uses.size() == 1);
  CHECK(uses.front().starts_with("eth0 has an XDP program, id "));
}
