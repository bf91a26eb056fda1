#include "options.hpp"

#include "addresses.hpp"
#include "file.hpp"
#include "intent.hpp"
#include "json.hpp"
#include "output.hpp"
#include "result.hpp"
#include "text.hpp"

#include <boost/program_options.hpp>
#include <grp.h>
#include <set>

namespace smartio {

namespace po = boost::program_options;
using core::Json;

namespace {

po::options_description describe_options() {
  po::options_description options("Options");
  options.add_options()("node", po::value<std::string>()->value_name("ID"), "this node's number, 1 to 65535")(
      "listen", po::value<std::string>()->value_name("ADDR:PORT"), "where lenders reach this node (127.0.0.1:7808)")(
      "run-dir", po::value<std::string>()->value_name("DIR"), "sockets (/run/smartio)")(
      "state-dir", po::value<std::string>()->value_name("DIR"), "what is kept across restarts (/var/lib/smartio)")(
      "config", po::value<std::string>()->value_name("FILE"),
      "JSON with the same names as these options, and nodes, ntb, peer-timeout, trusted-group")(
      "insecure", "listen on other addresses than loopback, although peers are not authenticated")(
      "help,h", "this text")("version", "the version");
  return options;
}

/// Keys that stand twice in one object: the parser would silently take the last.
struct UniqueKeys {
  std::vector<std::set<std::string>> open;
  std::string twice;
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    const auto level = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      open.resize(std::max(open.size(), level + 2));
      open[level + 1].clear();
    }
    if (event != Json::parse_event_t::key || level >= open.size()) return true;
    const auto key = hyphenated(parsed.get_ref<const std::string&>());
    if (!open[level].insert(key).second && twice.empty()) twice = key;
    return true;
  }
};

Result<void> apply_nodes(const Json& nodes, Config& config) {
  if (!nodes.is_object()) return fail(Errc::bad_request, "it is not an object of node id and HOST:PORT");
  for (const auto& [key, value] : nodes.items()) {
    const auto node = TRY(parse_node_id(key));
    if (!value.is_string()) return fail(Errc::bad_request, "the address of node {} is not a string", key);
    const auto& address = value.get_ref<const std::string&>();
    if (!config.nodes.emplace(node, address).second)
      return fail(Errc::bad_request, "node {} stands there twice", number(node));
    TRY(core::check_endpoint(address));
  }
  return {};
}

/// Short forms of BDFs are for libpci to read, when the node starts.
Result<void> apply_bridges(const std::string& list, Config& config) {
  config.ntb = core::split_list(list);
  std::set<std::string> seen;
  for (const auto& address : config.ntb) {
    if (!seen.insert(address).second) return fail(Errc::bad_request, "{} stands there twice", address);
    if (address.find_first_of(":.") == std::string::npos || address.starts_with(core::user_prefix))
      TRY(core::parse_address(address));
  }
  return {};
}

Result<void> apply_group(const std::string& name, Config& config) {
  if (::getgrnam(name.c_str()) == nullptr) return fail(Errc::bad_request, "there is no group '{}'", name);
  config.trusted_group = name;
  return {};
}

Result<void> apply_listen(const std::string& address, Config& config) {
  if (!address.empty()) TRY(core::check_listen(address));
  config.listen = address;
  return {};
}

Result<void> apply_peer_timeout(std::uint64_t milliseconds, Config& config) {
  TRY(core::parse_option("peer-timeout", std::to_string(milliseconds)));
  config.peer_timeout = std::chrono::milliseconds{milliseconds};
  return {};
}

/// `key` as it stands in the file.
Result<void> apply(const std::string& key, const Json& file, Config& config) {
  const auto option = hyphenated(key);
  const char* name = key.c_str();
  if (option == "node")
    config.node = TRY(core::get_node(file, name));
  else if (option == "listen")
    return apply_listen(TRY(core::get_string(file, name)), config);
  else if (option == "run-dir")
    config.run_dir = TRY(core::get_string(file, name));
  else if (option == "state-dir")
    config.state_dir = TRY(core::get_string(file, name));
  else if (option == "insecure")
    config.insecure = TRY(core::get_bool(file, name));
  else if (option == "trusted-group")
    return apply_group(TRY(core::get_string(file, name)), config);
  else if (option == "ntb")
    return apply_bridges(TRY(core::get_string(file, name)), config);
  else if (option == "nodes")
    return apply_nodes(file[key], config);
  else if (option == "peer-timeout")
    return apply_peer_timeout(TRY(core::get_number(file, name)), config);
  else
    return fail(Errc::bad_request, "there is no such option");
  return {};
}

Result<void> apply_file(const std::string& path, Config& config) {
  const auto text = TRY(read_file(path));
  if (!text) return fail_errno(ENOENT, "open " + path);
  const auto checked = core::parse_object(*text);
  if (!checked) return fail(Errc::bad_request, "{}: {}", path, checked.error().context);
  UniqueKeys keys;
  const auto parsed = Json::parse(
      *text, [&keys](int depth, Json::parse_event_t event, Json& value) { return keys(depth, event, value); }, false);
  if (!keys.twice.empty()) return fail(Errc::bad_request, "{}: '{}' stands there twice", path, keys.twice);
  for (const auto& [key, value] : parsed.items())
    if (const auto applied = apply(key, parsed, config); !applied)
      return fail(Errc::bad_request, "{}: '{}': {}", path, key, applied.error().context);
  return {};
}

Result<std::optional<Config>> read_given(int argc, char** argv) {
  const auto options = describe_options();
  po::variables_map given;
  try { // Program_options has no other way to say it
    const int exact = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::command_line_parser parser(argc, argv);
    parser.options(options).positional({}).style(exact).extra_parser(hyphenated_option);
    po::store(parser.run(), given);
  } catch (const po::error& error) {
    return fail(Errc::bad_request, "{}", error.what());
  }
  if (given.contains("help")) {
    std::ostringstream text;
    text << "Usage: smartiod --node ID [OPTION]...\nLends this host's PCI devices to other hosts, and borrows "
            "theirs.\n\n"
         << options;
    TRY(write_output(text.str()));
    return std::nullopt;
  }
  if (given.contains("version")) {
    TRY(write_output("smartiod " SMARTIO_VERSION "\n"));
    return std::nullopt;
  }
  Config config{.listen = "127.0.0.1:7808", .run_dir = "/run/smartio", .state_dir = "/var/lib/smartio"};
  const auto text = [&given](const char* name) { return given[name].as<std::string>(); };
  if (given.contains("config")) TRY(apply_file(text("config"), config));
  if (given.contains("node")) config.node = TRY(parse_node_id(text("node")));
  if (given.contains("listen")) config.listen = text("listen");
  if (given.contains("run-dir")) config.run_dir = text("run-dir");
  if (given.contains("state-dir")) config.state_dir = text("state-dir");
  if (given.contains("insecure")) config.insecure = true;
  if (config.node == NodeId{}) return fail(Errc::bad_request, "this node's number is missing: give --node ID");
  return config;
}

} // namespace

Result<std::optional<Config>> read_options(int argc, char** argv) {
  auto config = read_given(argc, argv);
  // Words and values are told as they stand there.
  if (!config) config.error().context = printable(std::move(config.error().context));
  return config;
}

} // namespace smartio
