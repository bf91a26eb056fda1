// Questions to the kernel over netlink, which has what no file says, and reading what it answers. Private to this
// folder.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smartio::vfio::host {

/// A request: a message of `type` in the family `protocol` (NETLINK_ROUTE ...), with NLM_F_DUMP if it is for a list.
struct Question {
  int protocol;
  std::uint16_t type;
  bool list;
  std::string body; ///< behind the message's header: the family's own, and attributes
};

/// All that the kernel answers, one message behind the other as it sent them; "" if it cannot be asked or says no. Ends
/// at 4 MiB. Waits for no answer, but for the lock of whoever answers.
std::string ask_netlink(const Question& question);

/// A message of an answer (struct nlmsghdr), or an attribute in one (struct nlattr); `body` is within what it was read
/// from.
struct Part {
  std::uint16_t type;
  std::string_view body;
};

/// What is there completely; anything may stand in what is read.
std::vector<Part> messages_in(std::string_view answer);
std::vector<Part> attributes_in(std::string_view body);

/// Of the first attribute of that type; "" if there is none.
std::string_view attribute(std::string_view attributes, std::uint16_t type);

/// The fixed part that a body begins with, of the family's own type, or a number; nullopt if it is shorter.
template <class T> std::optional<T> start_of(std::string_view body) {
  if (body.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, body.data(), sizeof value);
  return value;
}

/// What is behind that fixed part, which is padded to 4 bytes.
template <class T> std::string_view after(std::string_view body) {
  constexpr auto size = (sizeof(T) + 3) & ~std::size_t{3};
  return body.substr(std::min(body.size(), size));
}

template <class T> std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

} // namespace smartio::vfio::host
