#include "netlink.hpp"

#include "fd.hpp"

#include <algorithm>
#include <array>
#include <linux/netlink.h>
#include <sys/socket.h>

namespace smartio::vfio::host {
namespace {

constexpr std::size_t longest_answer = 4U << 20; ///< bytes

/// Headers with a length, which counts the header, and parts padded to 4 bytes.
template <class Header, auto Length, auto Type> std::vector<Part> parts_in(std::string_view rest) {
  std::vector<Part> parts;
  while (const auto header = start_of<Header>(rest)) {
    const std::size_t length = (*header).*Length;
    if (length < sizeof(Header) || length > rest.size()) break;
    parts.push_back({(*header).*Type, rest.substr(sizeof(Header), length - sizeof(Header))});
    rest.remove_prefix(std::min(rest.size(), (length + 3) & ~std::size_t{3}));
  }
  return parts;
}

bool send(int socket, const Question& question) {
  // Of a qdisc the kernel tells those who listen for changes, and who has asked only with NLM_F_ECHO.
  const auto flags = static_cast<std::uint16_t>(NLM_F_REQUEST | (question.list ? NLM_F_DUMP : NLM_F_ACK | NLM_F_ECHO));
  const ::nlmsghdr header{.nlmsg_len = static_cast<std::uint32_t>(sizeof header + question.body.size()),
                          .nlmsg_type = question.type,
                          .nlmsg_flags = flags,
                          .nlmsg_seq = 1,
                          .nlmsg_pid = 0};
  const auto message = bytes_of(header) + question.body;
  const ::sockaddr_nl kernel{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = 0};
  return ::sendto(socket, message.data(), message.size(), 0, reinterpret_cast<const ::sockaddr*>(&kernel),
                  sizeof kernel) == static_cast<::ssize_t>(message.size());
}

bool is_end(const Part& message) { return message.type == NLMSG_DONE || message.type == NLMSG_ERROR; }

} // namespace

std::vector<Part> messages_in(std::string_view answer) {
  return parts_in<::nlmsghdr, &::nlmsghdr::nlmsg_len, &::nlmsghdr::nlmsg_type>(answer);
}

std::vector<Part> attributes_in(std::string_view body) {
  auto parts = parts_in<::nlattr, &::nlattr::nla_len, &::nlattr::nla_type>(body);
  for (auto& part : parts) part.type = static_cast<std::uint16_t>(part.type & NLA_TYPE_MASK);
  return parts;
}

std::string_view attribute(std::string_view attributes, std::uint16_t type) {
  for (const auto& part : attributes_in(attributes))
    if (part.type == type) return part.body;
  return {};
}

std::string ask_netlink(const Question& question) {
  const Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, question.protocol));
  std::string answer;
  if (!socket || !send(socket.get(), question)) return answer;
  static_assert(NLMSG_ALIGNTO == 4 && NLA_ALIGNTO == 4);
  for (std::array<char, 32768> buffer; answer.size() < longest_answer;) {
    // The kernel answers while it is asked, and goes on with a list while that is read.
    const auto got = ::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got <= 0) break;
    const std::string_view received(buffer.data(), static_cast<std::size_t>(got));
    answer += received;
    if (std::ranges::any_of(messages_in(received), is_end)) break;
  }
  return answer;
}

} // namespace smartio::vfio::host
