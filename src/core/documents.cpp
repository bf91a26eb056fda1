// The documents that monitoring reads: list, status, show. Their schemas are in tools/schema.
#include "node.hpp"

#include "utc.hpp"

#include <algorithm>

namespace smartio::core {

Json Node::device_json(const DeviceEntry& d, bool reachable) const {
  const auto bdf = parse_bdf(d.address);
  return {{"id", to_string(d.id)},
          {"node", number(lender_of(d.id))},
          {"address", d.address},
          {"bdf", bdf ? Json(to_string(*bdf)) : Json(nullptr)},
          {"class", fmt::format("{:06x}", d.class_code)},
          {"vendor", fmt::format("{:04x}", d.vendor)},
          {"device", fmt::format("{:04x}", d.device)},
          {"name", d.name},
          {"state", to_string(d.state)},
          {"borrower", d.borrower == NodeId{} ? Json(nullptr) : Json(number(d.borrower))},
          {"reachable", reachable}};
}

Json Node::devices_json() const {
  std::map<DeviceId, Json> sorted;
  for (const auto& [index, device] : devices_) {
    if (device.identity.name.empty()) continue; // being added
    const auto id = make_device_id(settings_.node, index);
    sorted[id] = device_json(entry(id, device), true);
  }
  for (const auto& [node, lender] : lenders_) {
    if (node == settings_.node) continue;
    for (const auto& [id, device] : lender.devices) sorted[id] = device_json(device, lender.link != 0);
  }
  Json list = Json::array();
  for (auto& [id, device] : sorted) list.push_back(std::move(device));
  return list;
}

Json Node::loan_json(DeviceId id, const Loan& loan) const {
  const bool used = !loan.usage.client.empty();
  return {{"device", to_string(id)},
          {"borrower", number(settings_.node)},
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
Json Node::share_json(DeviceId id, std::uint64_t epoch, const Share& share) const {
  Loan granted{.epoch = epoch, .shared = share.shared};
  auto json = loan_json(id, granted);
  json["borrower"] = number(share.borrower);
  return json;
}

/// Loans this node has, and those it granted to others.
Json Node::loans_json() const {
  Json loans = Json::array();
  for (const auto& [id, loan] : loans_)
    if (loan.epoch != 0) loans.push_back(loan_json(id, loan));
  for (const auto& [index, device] : devices_)
    for (const auto& [epoch, share] : device.shares)
      if (share.borrower != settings_.node)
        loans.push_back(share_json(make_device_id(settings_.node, index), epoch, share));
  std::sort(loans.begin(), loans.end(), [](const Json& a, const Json& b) {
    return std::pair(a["device"], a["epoch"]) < std::pair(b["device"], b["epoch"]);
  });
  return loans;
}

Json Node::peers_json() const {
  Json peers = Json::array();
  const auto since = [](Time time) { return time == Time{} ? Json(nullptr) : Json(utc(time)); };
  for (const auto& [node, b] : borrowers_)
    peers.push_back({{"node", number(node)},
                     {"address", b.address},
                     {"role", node == settings_.node ? "self" : "borrower"},
                     {"state", b.up ? "up" : "connecting"},
                     {"since", since(b.since)}});
  for (const auto& [node, l] : lenders_)
    if (node != settings_.node)
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

/// The local fabric joins this node with itself and with peers on this host; it has no aperture to run out of.
Json Node::fabrics_json() const {
  Json fabrics = bridges_json();
  for (const auto& [node, lender] : lenders_)
    if (fabric_to(lender) == Fabric::local)
      fabrics.push_back({{"kind", "local"},
                         {"peer", number(node)},
                         {"address", nullptr},
                         {"state", lender.link != 0 ? "up" : "down"},
                         {"reason", nullptr},
                         {"aperture_bytes", 0},
                         {"used_bytes", 0}});
  return fabrics;
}

Json Node::filters_json() const {
  Json filters = Json::array();
  for (const auto& rule : intent_.filters)
    filters.push_back({{"ids", rule.ids}, {"slot", rule.slot}, {"available", rule.available}});
  return filters;
}

Json Node::list_document() const { return {{"schema_version", 1}, {"devices", devices_json()}}; }

Json Node::status_document() const {
  return {{"schema_version", 1},   {"node", number(settings_.node)}, {"version", SMARTIO_VERSION},
          {"peers", peers_json()}, {"fabrics", fabrics_json()},      {"devices", devices_json()},
          {"loans", loans_json()}, {"filters", filters_json()},      {"counters", counters_}};
}

Result<Json> Node::show_document(DeviceId id) const {
  const auto lender = lenders_.find(lender_of(id));
  const auto* own_device = lender_of(id) == settings_.node ? devices_.find(index_of(id)) : nullptr;
  const auto loan = loans_.find(id);
  Json bars = Json::array(), document{{"schema_version", 1}};
  Json used = loan == loans_.end() || loan->second.epoch == 0 ? Json(nullptr) : loan_json(id, loan->second);
  Json group, interface, driver; // null where this node does not know
  unsigned vectors = 0;
  std::string reason;
  if (own_device != nullptr) {
    const auto& d = *own_device;
    document["device"] = device_json(entry(id, d), true);
    for (unsigned bar = 0; bar < 6; ++bar)
      if (d.identity.bar_size[bar] != 0)
        bars.push_back(
            {{"bar", bar}, {"size", d.identity.bar_size[bar]}, {"mapped_bytes", d.identity.bar_mapped[bar]}});
    vectors = d.identity.vectors;
    if (d.identity.iommu_group) group = *d.identity.iommu_group;
    if (!d.identity.interface.empty()) interface = d.identity.interface;
    if (!d.identity.driver.empty()) driver = d.identity.driver;
    reason = d.reason;
    if (used.is_null() && !d.shares.empty()) used = share_json(id, d.shares.begin()->first, d.shares.begin()->second);
  } else if (lender != lenders_.end() && lender->second.devices.contains(id)) {
    document["device"] = device_json(lender->second.devices.at(id), lender->second.link != 0);
  } else {
    return fail(Errc::no_such_device, "no device {} is known to node {}", to_string(id), number(settings_.node));
  }
  if (interface.is_null() && document["device"]["bdf"].is_null()) interface = "vfio-user";
  const auto fabric = lender == lenders_.end() ? Fabric::none : fabric_to(lender->second);
  Json counters = Json::object();
  if (loan != loans_.end()) {
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
