// Node 8 as it starts with a state file that remembers a disk, for what it does when another device is there, or none.
#pragma once

#include "core_lender.hpp"

namespace smartio::core::test {

inline const char* const slot = "0000:06:00.0";
inline const char* const elsewhere = "0000:09:00.0";

inline Identity device(const char* kind, std::map<std::string, std::string> serials = {}, const char* driver = "nvme") {
  return {.vendor = 1, .name = "Disk", .iommu_group = 1, .driver = driver, .who = {kind, std::move(serials)}};
}
inline Identity disk(const char* serial) { return device("disk", {{"nvme", serial}}); }

inline DevicesFound at(const char* address, const char* serial) { return {{{address, disk(serial).who}}}; }

/// A node that starts with a state file: a disk with serial number A in the slot, available.
struct Restarted : Wanted {
  static Intent remembered() {
    Intent intent;
    intent.devices[0] = {slot, true, false, {"disk", {{"nvme", "A"}}}};
    return intent;
  }
  Node node;
  const DeviceId id{0x80000}, second{0x80001};

  explicit Restarted(Intent intent = remembered())
      : node({.node = NodeId{8}, .boot_id = "here", .nonce = std::string(64, 'a')}, std::move(intent)) {
    on(Started{});
  }
  void on(Event event) { effects = node.handle(std::move(event), Time{}); }
  void command(const char* name, const char* of) { on(Command{1, 9, name, Json{{"device", of}}}); }
  Json entry(std::size_t index = 0) const { return node.list_document()["devices"][index]; }
  std::string reason() { return show()["reason"].get<std::string>(); }
  Json show() {
    command("show", "80000");
    return *find<Reply>()->result;
  }
};

} // namespace smartio::core::test
