#include "settings.hpp"

#include "addresses.hpp"
#include "callbacks.hpp"
#include "file.hpp"
#include "host_devices.hpp"
#include "nonce.hpp"
#include "result.hpp"

#include <filesystem>
#include <fmt/ranges.h>
#include <grp.h>

namespace smartio {

namespace {

/// Above all that an earlier start used, unless the clock was set back. Below 2^53: JSON's readers may have doubles
/// only.
std::uint64_t new_epochs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count()) << 20 | 1;
}

/// Addresses of bridges, each in full, with commas between.
Result<std::string> full_bridges(std::vector<std::string> addresses) {
  for (auto& address : addresses) address = TRY(HostDevices::full_address(address));
  return core::parse_option("ntb", fmt::format("{}", fmt::join(addresses, ",")));
}

Result<std::string> absolute(std::string directory) {
  if (directory.empty() || directory.front() == '/') return directory;
  std::error_code error;
  auto whole = std::filesystem::absolute(directory, error);
  if (error) return fail_errno(error.value(), "find the working directory, for " + directory);
  return whole.string();
}

} // namespace

Result<void> check(const Config& config) {
  if (config.node == NodeId{}) return fail(Errc::bad_request, "a node needs an id from 1 to 65535");
  if (config.timeout <= std::chrono::milliseconds(0))
    return fail(Errc::bad_request, "{} ms is not a timeout: give 1 or more", config.timeout.count());
  TRY(core::parse_option("peer-timeout", std::to_string(config.peer_timeout.count())));
  if (!config.trusted_group.empty() && ::getgrnam(config.trusted_group.c_str()) == nullptr)
    return fail(Errc::bad_request, "there is no group '{}'", config.trusted_group);
  for (const auto& [node, address] : config.nodes) {
    if (node == NodeId{}) return fail(Errc::bad_request, "{} is no node's address: ids are 1 to 65535", address);
    TRY(core::check_endpoint(address));
  }
  return {};
}

Result<Config> completed(Config config) {
  for (auto* directory : {&config.run_dir, &config.state_dir}) *directory = TRY(absolute(std::move(*directory)));
  config.log = guarded_log(std::move(config.log));
  return config;
}

Result<core::Settings> settings_of(const Config& config) {
  const auto boot_id = TRY(read_file("/proc/sys/kernel/random/boot_id")).value_or("");
  return core::Settings{.node = config.node,
                        .boot_id = boot_id.substr(0, boot_id.find('\n')),
                        .fabric_token = config.run_dir.empty() ? "" : make_token(),
                        .nonce = make_nonce(),
                        .can_borrow = !config.run_dir.empty(),
                        .nodes = config.nodes,
                        .peer_timeout = config.peer_timeout,
                        .bridges = core::split_list(TRY(full_bridges(config.ntb))),
                        .first_epoch = new_epochs()};
}

Result<void> complete_addresses(const std::string& command, core::Json& arguments) {
  if (const auto device = arguments.find("device"); device != arguments.end() && device->is_string())
    *device = TRY(HostDevices::full_address(device->get_ref<const std::string&>()));
  const auto value = arguments.find("value");
  if (command != "config" || arguments.value("option", core::Json()) != "ntb" || value == arguments.end() ||
      !value->is_string())
    return {};
  *value = TRY(full_bridges(core::split_list(value->get_ref<const std::string&>())));
  return {};
}

} // namespace smartio
