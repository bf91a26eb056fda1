#include "open.hpp"

#include "result.hpp"
#include "text.hpp"

using smartio::Device;
using smartio::DeviceId;
using smartio::Errc;
using smartio::fail;
using smartio::Node;
using smartio::Result;

namespace {

// By id, or by the address its lender names it by (a BDF, with or without the domain 0000).
Result<DeviceId> find(const Node& node, const std::string& device) {
  if (device.find_first_of(":.") == std::string::npos) return smartio::parse_device_id(device);
  for (const auto& known : TRY(node.devices()))
    if (known.address == device || known.address == "0000:" + device) return known.id;
  return fail(Errc::no_such_device, "No device {} is known here", device);
}

} // namespace

Result<Device> open_named(const std::string& device, const std::string& run_dir) {
  if (device.starts_with("vfio-user:")) return smartio::open_device(device);
  if (device.find_first_of(":.") == std::string::npos) TRY(smartio::parse_device_id(device)); // a typing error first
  const auto node = TRY(Node::attach(run_dir));
  const auto id = TRY(find(node, device));
  return node.borrow(id);
}
