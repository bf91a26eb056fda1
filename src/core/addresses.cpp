#include "addresses.hpp"

#include "bdf.hpp"
#include "intent.hpp"
#include "message.hpp"
#include "text.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <fmt/ranges.h>

namespace smartio::core {
namespace {

constexpr std::size_t longest_socket_path = 107; // sun_path of sockaddr_un, without its NUL
constexpr std::uint64_t shortest_peer_timeout = 1000, longest_peer_timeout = 60000;

Result<std::string> parse_peer_timeout(const std::string& value) {
  const auto milliseconds = parse_number(value, 10, longest_peer_timeout);
  if (!milliseconds || *milliseconds < shortest_peer_timeout)
    return fail(Errc::bad_request, "'{}' is not a peer-timeout: give milliseconds, {} to {}", value,
                shortest_peer_timeout, longest_peer_timeout);
  return value;
}

Result<std::string> parse_bridges(const std::string& value) {
  std::vector<std::string> addresses;
  for (const auto& text : split_list(value)) {
    const auto address = parse_address(text);
    if (!address)
      return fail(Errc::bad_request,
                  "'{}' is not the address of a bridge: give BDFs like 0000:06:00.0, or "
                  "vfio-user:PATH, with commas between; nothing for none",
                  text);
    if (std::ranges::count(addresses, *address) != 0) return fail(Errc::bad_request, "{} is given twice", *address);
    addresses.push_back(*address);
  }
  return fmt::format("{}", fmt::join(addresses, ","));
}

Result<std::string> parse_iommu(const std::string& value) {
  if (value == "auto" || value == "type1" || value == "iommufd") return value;
  return fail(Errc::bad_request, "'{}' is not an iommu interface: give auto, type1 or iommufd", value);
}

} // namespace

Result<std::string> parse_address(const std::string& text) {
  if (const auto bdf = parse_bdf(text)) return to_string(*bdf);
  if (!text.starts_with(user_prefix))
    return fail(Errc::bad_request, "'{}' is not a device: give a BDF, or vfio-user:PATH", text);
  const auto path = std::string_view(text).substr(user_prefix.size());
  if (!path.starts_with('/')) return fail(Errc::bad_request, "'{}' is not a device: the path must be absolute", text);
  if (path.size() > longest_socket_path || path.find('\0') != std::string_view::npos)
    return fail(Errc::bad_request, "'{}' is not a device: a socket's path has at most {} bytes", text,
                longest_socket_path);
  return text;
}

Result<void> check_endpoint(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon != std::string::npos && colon != 0 && text.size() <= text_limit &&
      parse_number(text.substr(colon + 1), 10, 65535).value_or(0) != 0)
    return {};
  return fail(Errc::bad_request, "'{}' is not an address: give HOST:PORT", text);
}

std::pair<std::string, std::string> split_endpoint(const std::string& text) {
  const auto colon = text.rfind(':');
  auto host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return {host, colon == std::string::npos ? "" : text.substr(colon + 1)};
}

Result<void> check_listen(const std::string& text) {
  const auto [host, port] = split_endpoint(text);
  const auto numeric = host.substr(0, host.find('%')); // "fe80::1%eth0"
  ::in6_addr ignored{};
  const bool is_address = host == "localhost" || ::inet_pton(AF_INET, numeric.c_str(), &ignored) == 1 ||
                          ::inet_pton(AF_INET6, numeric.c_str(), &ignored) == 1;
  if (is_address && parse_number(port, 10, 65535)) return {};
  return fail(Errc::bad_request, "'{}' is not an address to listen on: give ADDRESS:PORT", text);
}

bool is_option(const std::string& name) { return name == "iommu" || name == "ntb" || name == "peer-timeout"; }

Result<std::string> parse_option(const std::string& name, const std::string& value) {
  if (name == "iommu") return parse_iommu(value);
  if (name == "ntb") return parse_bridges(value);
  if (name == "peer-timeout") return parse_peer_timeout(value);
  return value;
}

} // namespace smartio::core
