// The public Node: management commands as methods.
#include <smartio/node.hpp>

#include "node_access.hpp"
#include "node_documents.hpp"
#include "node_loan.hpp"
#include "result.hpp"

namespace smartio {

using core::Json;

namespace {

Json device_argument(DeviceId id) { return {{"device", to_string(id)}}; }

Result<std::vector<DeviceId>> filtered(detail::Node& node, const char* command, const Filter& filter) {
  const auto answer = TRY(node.call(command, {{"ids", filter.ids}, {"slot", filter.slot}}));
  return parse_all<DeviceId>(answer, "devices", parse_id);
}

} // namespace

Result<Node> Node::start(const Config& config) { return Node(TRY(detail::start_node(config))); }
Result<Node> Node::attach(const std::string& run_dir) { return Node(TRY(detail::attach_node(run_dir))); }

Result<void> Node::stop() const { return impl_->stop(); }

NodeId Node::id() const noexcept { return impl_->id; }

Result<void> Node::connect(NodeId borrower, const std::string& address) const {
  Json arguments{{"node", static_cast<unsigned>(borrower)}};
  if (!address.empty()) arguments["address"] = address;
  TRY(impl_->call("connect", arguments));
  return {};
}

Result<void> Node::disconnect(NodeId borrower) const {
  TRY(impl_->call("disconnect", Json{{"node", static_cast<unsigned>(borrower)}}));
  return {};
}

Result<DeviceId> Node::add(const std::string& address) const {
  const auto answer = TRY(impl_->call("add", Json{{"device", address}}));
  return core::get_device(answer, "device");
}

Result<void> Node::remove(DeviceId id) const {
  TRY(impl_->call("remove", device_argument(id)));
  return {};
}

Result<void> Node::make_available(DeviceId id, bool force) const {
  auto arguments = device_argument(id);
  arguments["force"] = force;
  TRY(impl_->call("available", arguments));
  return {};
}

Result<void> Node::make_unavailable(DeviceId id) const {
  TRY(impl_->call("unavailable", device_argument(id)));
  return {};
}

Result<std::vector<DeviceInfo>> Node::devices(const Filter& filter) const {
  const auto matches = TRY(matcher(filter));
  auto devices = parse_all<DeviceInfo>(TRY(impl_->call("list", Json::object())), "devices", parse_device_info);
  if (devices) std::erase_if(*devices, [&matches](const auto& device) { return !matches(device); });
  return devices;
}

Result<std::vector<DeviceId>> Node::add_filter(const Filter& filter) const {
  return filtered(*impl_, "add-filter", filter);
}
Result<std::vector<DeviceId>> Node::available_filter(const Filter& filter) const {
  return filtered(*impl_, "available-filter", filter);
}
Result<std::vector<DeviceId>> Node::unavailable_filter(const Filter& filter) const {
  return filtered(*impl_, "unavailable-filter", filter);
}
Result<std::vector<DeviceId>> Node::remove_filter(const Filter& filter) const {
  return filtered(*impl_, "remove-filter", filter);
}

Result<Filters> Node::filters() const { return parse_filters(TRY(impl_->call("filters", Json::object()))); }

Result<std::vector<DeviceId>> Node::scan() const {
  return parse_all<DeviceId>(TRY(impl_->call("scan", Json::object())), "found", parse_id);
}

Result<std::map<std::string, std::string>> Node::options() const {
  return parse_options(TRY(impl_->call("config", Json::object())));
}

Result<void> Node::set_option(const std::string& name, const std::string& value) const {
  TRY(impl_->call("config", {{"option", name}, {"value", value}}));
  return {};
}

Result<std::vector<PeerInfo>> Node::peers() const {
  return parse_all<PeerInfo>(TRY(impl_->call("status", Json::object())), "peers", parse_peer);
}

Result<std::vector<LoanInfo>> Node::loans() const {
  return parse_all<LoanInfo>(TRY(impl_->call("status", Json::object())), "loans", parse_loan);
}

Result<std::vector<std::byte>> Node::config_space(DeviceId id, ConfigForm form) const {
  auto arguments = device_argument(id);
  arguments["form"] = core::name_of(form);
  const auto answer = TRY(impl_->call("config-space", arguments));
  return parse_hex(TRY(core::get_string(answer, "hex")));
}

Result<Device> Node::borrow(DeviceId id, Borrow how) const { return detail::borrow(impl_, id, how); }

Result<void> Node::give_back(DeviceId id) const {
  TRY(impl_->call("return", device_argument(id)));
  return {};
}

Result<Events> Node::events() const { return Events(TRY(impl_->events())); }

Result<std::string> Node::status_json() const {
  const auto status = TRY(impl_->call("status", Json::object()));
  return status.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> Node::call(const std::string& command, const std::string& arguments) const {
  const auto object = TRY(core::parse_object(arguments));
  const auto answer = TRY(impl_->call(command, object));
  return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

} // namespace smartio
