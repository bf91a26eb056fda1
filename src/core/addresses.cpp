#include "addresses.hpp"

#include "bdf.hpp"
#include "intent.hpp"
#include "text.hpp"

namespace smartio::core {
namespace {

constexpr std::size_t longest_socket_path = 107; // sun_path of sockaddr_un, without its NUL
constexpr std::uint64_t shortest_peer_timeout = 1000, longest_peer_timeout = 60000;

Result<void> check_peer_timeout(const std::string& value) {
  const auto milliseconds = parse_number(value, 10, longest_peer_timeout);
  if (!milliseconds || *milliseconds < shortest_peer_timeout)
    return fail(Errc::bad_request, "'{}' is not a peer-timeout: give milliseconds, {} to {}", value,
                shortest_peer_timeout, longest_peer_timeout);
  return {};
}

Result<void> check_bridges(const std::string& value) {
  for (const auto& address : split_list(value))
    if (!is_address(address))
      return fail(Errc::bad_request,
                  "'{}' is not the address of a bridge: give BDFs like 0000:06:00.0, or "
                  "vfio-user:PATH, with commas between; nothing for none",
                  address);
  return {};
}

Result<void> check_iommu(const std::string& value) {
  if (value == "auto" || value == "type1" || value == "iommufd") return {};
  return fail(Errc::bad_request, "'{}' is not an iommu interface: give auto, type1 or iommufd", value);
}

} // namespace

bool is_address(std::string_view text) {
  return parse_bdf(text) || (text.starts_with(user_prefix) && text.substr(user_prefix.size()).starts_with('/'));
}

Result<std::string> parse_address(const std::string& text) {
  if (parse_bdf(text)) return text;
  if (!text.starts_with(user_prefix))
    return fail(Errc::bad_request, "'{}' is not a device: give a BDF, or vfio-user:PATH", text);
  const auto path = std::string_view(text).substr(user_prefix.size());
  if (!path.starts_with('/')) return fail(Errc::bad_request, "'{}' is not a device: the path must be absolute", text);
  if (path.size() > longest_socket_path || path.find('\0') != std::string_view::npos)
    return fail(Errc::bad_request, "'{}' is not a device: a socket's path has at most {} bytes", text,
                longest_socket_path);
  return text;
}

bool is_option(const std::string& name) { return name == "iommu" || name == "ntb" || name == "peer-timeout"; }

Result<void> check_option(const std::string& name, const std::string& value) {
  if (name == "iommu") return check_iommu(value);
  if (name == "ntb") return check_bridges(value);
  if (name == "peer-timeout") return check_peer_timeout(value);
  return {};
}

} // namespace smartio::core
