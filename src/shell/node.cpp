// The public Node: management commands as methods.
#include <smartio/node.hpp>

#include "callbacks.hpp"
#include "node_access.hpp"
#include "open_loan.hpp"
#include "result.hpp"

namespace smartio {

using core::Json;

namespace {

Result<DeviceInfo> parse_info(const Json& object) {
  DeviceInfo info;
  const auto hex = [&object](const char* key) -> Result<std::uint64_t> {
    const auto text = TRY(core::get_string(object, key));
    return parse_number(text, 16).value_or(0);
  };
  info.id = TRY(core::get_device(object, "id"));
  info.node = TRY(core::get_node(object, "node"));
  info.address = TRY(core::get_string(object, "address"));
  info.name = TRY(core::get_string(object, "name"));
  info.vendor = static_cast<std::uint16_t>(TRY(hex("vendor")));
  info.device = static_cast<std::uint16_t>(TRY(hex("device")));
  info.class_code = static_cast<std::uint32_t>(TRY(hex("class")));
  const auto state = TRY(core::get_string(object, "state"));
  info.state = core::parse_state(state).value_or(DeviceState::unavailable);
  info.borrower = static_cast<NodeId>(core::get_number(object, "borrower", 65535).value_or(0));
  info.reachable = TRY(core::get_bool(object, "reachable"));
  return info;
}

Json device_argument(DeviceId id) { return {{"device", to_string(id)}}; }

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

Result<std::vector<DeviceInfo>> Node::devices() const {
  const auto answer = TRY(impl_->call("list", Json::object()));
  const auto list = answer.find("devices");
  if (list == answer.end() || !list->is_array()) return fail(Errc::bad_request, "the node sent no list of devices");
  std::vector<DeviceInfo> devices;
  for (const auto& object : *list) devices.push_back(TRY(parse_info(object)));
  return devices;
}

Result<Device> Node::borrow(DeviceId id, bool shared) const {
  auto arguments = device_argument(id);
  arguments["shared"] = shared;
  const auto answer = TRY(impl_->call_and_hold("open", arguments));
  const auto socket = TRY(core::get_string(answer.first, "socket"));
  // The device holds the loan, and the node it is a loan of.
  struct Holds {
    std::shared_ptr<detail::Node> node;
    std::shared_ptr<void> loan; // released first
  };
  const auto lender = static_cast<NodeId>(std::to_underlying(id) >> 16);
  return open_loan(socket, lender, impl_->timeout, std::make_shared<Holds>(Holds{impl_, answer.second}));
}

Result<std::string> Node::status_json() const {
  const auto status = TRY(impl_->call("status", Json::object()));
  return status.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> Node::call(const std::string& command, const std::string& arguments) const {
  const auto object = TRY(core::parse_object(arguments));
  const auto answer = TRY(impl_->call(command, object));
  return answer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<void> Node::monitor(std::function<bool(std::string_view event)> event) const {
  return impl_->monitor(guarded_monitor(std::move(event)));
}

} // namespace smartio
