// Node 8 as a lender with one device and one borrower, for tables of events in, effects out.
#pragma once

#include "node.hpp"

#include <algorithm>

namespace smartio::core::test {

inline const std::string nonce(64, 'b');

/// What a node wants done, of its last event.
struct Wanted {
  std::vector<Effect> effects;
  template <class T> const T* find() const {
    for (const auto& effect : effects)
      if (const auto* found = std::get_if<T>(&effect)) return found;
    return nullptr;
  }
};

/// Node 8 with one device, 80000, available, and node 4 connected as its borrower on link 16.
struct Lender : Wanted {
  Node node{{.node = NodeId{8}, .boot_id = "here", .fabric_token = std::string(32, 'f'), .nonce = std::string(64, 'a')},
            {}};

  void on(Event event) { effects = node.handle(std::move(event), Time{}); }
  void command(const char* name, Json arguments) { on(Command{1, 9, name, std::move(arguments)}); }
  template <class T> const T* sent() const {
    for (const auto& effect : effects)
      if (const auto* send = std::get_if<Send>(&effect))
        if (const auto* message = std::get_if<T>(&send->message)) return message;
    return nullptr;
  }
  template <class T> std::size_t count() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(effects, [](const auto& e) { return std::holds_alternative<T>(e); }));
  }
  std::string state(std::size_t index = 0) const {
    return node.list_document()["devices"][index]["state"].get<std::string>();
  }
  /// One more device, of this host, available.
  void add(const char* address, unsigned group = 1) {
    command("add", {{"device", address}});
    const auto added = find<ProbeDevice>()->device;
    const Identity identity{.vendor = 1, .name = "Disk", .iommu_group = group};
    on(DeviceProbed{added, identity});
    command("available", {{"device", address}});
    on(DeviceOpened{added, identity});
  }

  Lender() {
    on(Started{});
    command("connect", {{"node", 4}, {"address", "h:1"}});
    on(Dialled{NodeId{4}, 16, nonce});
    on(Received{16, Hello{1, NodeId{4}, NodeId{8}, "here", "", nonce}});
    command("add", {{"device", "vfio-user:/d"}});
    on(DeviceProbed{id, Identity{.vendor = 1, .name = "Disk"}});
    command("available", {{"device", "80000"}});
    on(DeviceOpened{id, Identity{.vendor = 1, .name = "Disk"}});
  }
  const DeviceId id{0x80000}, second{0x80001};
};

} // namespace smartio::core::test
