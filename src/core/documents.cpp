// The documents that monitoring reads: list, status, show. Their schemas are in tools/schema.
#include "documents.hpp"

#include "bdf.hpp"
#include "frame.hpp"
#include "result.hpp"

#include "utc.hpp"

#include <algorithm>

namespace smartio::core {

namespace {

std::string device_text(const DeviceEntry& d, bool reachable) {
  const auto bdf = parse_bdf(d.address);
  return fmt::format(
      R"({{"id":"{}","node":{},"address":{},"bdf":{},"class":"{:06x}","vendor":"{:04x}","device":"{:04x}","name":{},)"
      R"("state":"{}","borrower":{},"reachable":{}}})",
      to_string(d.id), number(lender_of(d.id)), json_text(d.address), bdf ? json_text(to_string(*bdf)) : "null",
      d.class_code, d.vendor, d.device, json_text(d.name), to_string(d.state),
      d.borrower == NodeId{} ? "null" : fmt::format("{}", number(d.borrower)), reachable);
}

Json device_json(const DeviceEntry& d, bool reachable) { return Json::parse(device_text(d, reachable)); }

/// `document` with all devices, in the order of their ids. Peers say how many there are: what cannot be sent is given
/// up before it takes time and memory.
Result<std::string> with_devices(const Json& document, const View& view) {
  auto text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.back() = ',';
  text += R"("devices":[)";
  const auto add = [&text](const DeviceEntry& device, bool reachable) {
    if (text.size() > answer_limit) return;
    if (text.back() != '[') text += ',';
    text += device_text(device, reachable);
  };
  const auto add_those_of = [&add](auto first, auto end) {
    for (const auto& [node, lender] : std::ranges::subrange(first, end))
      for (const auto& [id, device] : lender.devices) add(device, lender.link != 0);
  };
  const auto self = view.settings.node;
  add_those_of(view.lenders.begin(), view.lenders.lower_bound(self));
  for (const auto& [index, device] : view.devices)
    if (!device.identity.name.empty())
      add(entry_of(make_device_id(self, index), device), true); // else it is being added
  add_those_of(view.lenders.upper_bound(self), view.lenders.end());
  if (text.size() > answer_limit)
    return std::unexpected(Error{std::make_error_code(std::errc::message_size),
                                 fmt::format("the answer is too long: no more than {} can be sent", answer_limit)});
  return text += "]}";
}

Json loan_json(const View& view, DeviceId id, const Loan& loan) {
  const bool used = !loan.usage.client.empty();
  return {{"device", to_string(id)},
          {"borrower", number(view.settings.node)},
          {"epoch", loan.epoch},
          {"shared", loan.shared},
          {"client", used ? Json(loan.usage.client) : Json(nullptr)},
          {"pid", used ? Json(loan.usage.pid) : Json(nullptr)},
          {"socket", loan.socket.empty() ? Json(nullptr) : Json(loan.socket)},
          {"access", used ? Json(loan.usage.trapped ? "trapped" : "mapped") : Json(nullptr)},
          {"windows", loan.usage.windows},
          {"window_bytes", loan.usage.window_bytes},
          {"vectors", loan.usage.vectors}};
}

/// A loan that this node granted: who uses it is known at the borrower only.
Json share_json(const View& view, DeviceId id, std::uint64_t epoch, const Share& share) {
  Loan granted{.epoch = epoch, .shared = share.shared};
  auto json = loan_json(view, id, granted);
  json["borrower"] = number(share.borrower);
  return json;
}

/// Loans this node has, and those it granted to others.
Json loans_json(const View& view) {
  Json loans = Json::array();
  for (const auto& [id, loan] : view.loans)
    if (loan.epoch != 0) loans.push_back(loan_json(view, id, loan));
  for (const auto& [index, device] : view.devices)
    for (const auto& [epoch, share] : device.shares)
      if (share.borrower != view.settings.node)
        loans.push_back(share_json(view, make_device_id(view.settings.node, index), epoch, share));
  std::sort(loans.begin(), loans.end(), [](const Json& a, const Json& b) {
    return std::pair(a["device"], a["epoch"]) < std::pair(b["device"], b["epoch"]);
  });
  return loans;
}

Json peers_json(const View& view) {
  Json peers = Json::array();
  const auto since = [](Time time) { return time == Time{} ? Json(nullptr) : Json(utc(time)); };
  for (const auto& [node, b] : view.borrowers)
    peers.push_back({{"node", number(node)},
                     {"address", b.address},
                     {"role", node == view.settings.node ? "self" : "borrower"},
                     {"state", b.up ? "up" : "connecting"},
                     {"since", since(b.since)}});
  for (const auto& [node, l] : view.lenders)
    if (node != view.settings.node)
      peers.push_back({{"node", number(node)},
                       {"address", ""},
                       {"role", "lender"},
                       {"state", l.link != 0 ? "up" : "down"},
                       {"since", since(l.since)}});
  std::sort(peers.begin(), peers.end(), [](const Json& a, const Json& b) {
    return std::pair(a["node"], a["role"]) < std::pair(b["node"], b["role"]);
  });
  return peers;
}

Json bridges_json(const View& view) {
  Json found = Json::array();
  for (const auto& [address, bridge] : view.bridges)
    found.push_back({{"kind", "ntb"},
                     {"peer", bridge.peer == NodeId{} ? Json(nullptr) : Json(number(bridge.peer))},
                     {"address", address},
                     {"state", bridge.up ? "up" : "down"},
                     {"reason", bridge.up ? Json(nullptr) : Json(bridge.reason)},
                     {"aperture_bytes", bridge.aperture_bytes},
                     {"used_bytes", bridge.used_bytes}});
  return found;
}

/// The local fabric joins this node with itself and with peers on this host; it has no aperture to run out of.
Json fabrics_json(const View& view) {
  Json fabrics = bridges_json(view);
  for (const auto& [node, lender] : view.lenders)
    if (fabric_to(view, lender) == Fabric::local)
      fabrics.push_back({{"kind", "local"},
                         {"peer", number(node)},
                         {"address", nullptr},
                         {"state", lender.link != 0 ? "up" : "down"},
                         {"reason", nullptr},
                         {"aperture_bytes", 0},
                         {"used_bytes", 0}});
  return fabrics;
}

Json rules_json(const View& view) {
  Json filters = Json::array();
  for (const auto& rule : view.intent.filters)
    filters.push_back({{"ids", rule.ids}, {"slot", rule.slot}, {"available", rule.available}});
  return {{"filters", std::move(filters)}, {"removed", view.intent.removed}};
}

} // namespace

Result<std::string> list_document(const View& view) { return with_devices({{"schema_version", 1}}, view); }

Result<std::string> status_document(const View& view) {
  auto rules = rules_json(view);
  return with_devices({{"schema_version", 1},
                       {"node", number(view.settings.node)},
                       {"version", SMARTIO_VERSION},
                       {"peers", peers_json(view)},
                       {"fabrics", fabrics_json(view)},
                       {"loans", loans_json(view)},
                       {"filters", std::move(rules["filters"])},
                       {"removed", std::move(rules["removed"])},
                       {"seq", view.last_event},
                       {"unsaved", view.unsaved.empty() ? Json(nullptr) : Json(view.unsaved)},
                       {"counters", view.counters}},
                      view);
}

Json filters_document(const View& view) {
  auto document = rules_json(view);
  document["schema_version"] = 1;
  return document;
}

Result<Json> show_document(const View& view, DeviceId id) {
  const auto lender = view.lenders.find(lender_of(id));
  const auto* own_device = lender_of(id) == view.settings.node ? view.devices.find(index_of(id)) : nullptr;
  const auto loan = view.loans.find(id);
  Json bars = Json::array(), document{{"schema_version", 1}};
  Json used = loan == view.loans.end() || loan->second.epoch == 0 ? Json(nullptr) : loan_json(view, id, loan->second);
  Json group, interface, driver; // null where this node does not know
  unsigned vectors = 0;
  std::string reason;
  if (own_device != nullptr) {
    const auto& d = *own_device;
    document["device"] = device_json(entry_of(id, d), true);
    for (unsigned bar = 0; bar < 6; ++bar)
      if (d.identity.bar_size[bar] != 0)
        bars.push_back(
            {{"bar", bar}, {"size", d.identity.bar_size[bar]}, {"mapped_bytes", d.identity.bar_mapped[bar]}});
    vectors = d.identity.vectors;
    if (d.identity.iommu_group) group = *d.identity.iommu_group;
    if (!d.identity.interface.empty()) interface = d.identity.interface;
    if (!d.identity.driver.empty()) driver = d.identity.driver;
    reason = d.reason;
    if (used.is_null() && !d.shares.empty())
      used = share_json(view, id, d.shares.begin()->first, d.shares.begin()->second);
  } else if (lender != view.lenders.end() && lender->second.devices.contains(id)) {
    document["device"] = device_json(lender->second.devices.at(id), lender->second.link != 0);
  } else {
    return fail(Errc::no_such_device, "no device {} is known to node {}", to_string(id), number(view.settings.node));
  }
  if (interface.is_null() && document["device"]["bdf"].is_null()) interface = "vfio-user";
  const auto fabric = lender == view.lenders.end() ? Fabric::none : fabric_to(view, lender->second);
  Json counters = Json::object();
  if (loan != view.loans.end()) {
    const Usage& usage = loan->second.usage;
    if (reason.empty()) reason = usage.problem;
    if (!usage.client.empty()) counters["unreachable_windows"] = usage.unreachable_windows;
  }
  document.update({{"reason", reason.empty() ? Json(nullptr) : Json(reason)},
                   {"bars", bars},
                   {"vectors", vectors},
                   {"iommu_group", std::move(group)},
                   {"interface", std::move(interface)},
                   {"driver", std::move(driver)},
                   {"fabric", fabric == Fabric::none ? Json(nullptr) : Json(fabric == Fabric::ntb ? "ntb" : "local")},
                   {"loan", std::move(used)},
                   {"counters", std::move(counters)}});
  return document;
}

} // namespace smartio::core
