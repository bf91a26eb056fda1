// The words of the public interface: ids, addresses and descriptions, each its own type.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace smartio {

/// A host running the runtime: 1 to 65535.
enum class NodeId : std::uint16_t {};

/// (lender's node id << 16) | index, printed in hex without 0x: 80002 is device 2 of node 8.
enum class DeviceId : std::uint32_t {};

/// An address as the device emits it; means something only within one device's IOMMU domain, which all borrowers of a
/// shared device are in.
enum class Iova : std::uint64_t {};

/// What the device may do with memory mapped for it.
enum class Access : std::uint8_t { read = 1, write = 2, read_write = 3 };

enum class DeviceState : std::uint8_t { unavailable, available, borrowed, quarantined };

/// One device of the list: own, or of a connected lender.
struct DeviceInfo {
  DeviceId id{};
  NodeId node{};                ///< the lender
  std::string address;          ///< BDF or "vfio-user:PATH", as the lender names it
  std::string name;             ///< lspci's text: class, vendor, device
  std::uint16_t vendor = 0;     ///< PCI configuration space 0x00
  std::uint16_t device = 0;     ///< PCI configuration space 0x02
  std::uint32_t class_code = 0; ///< 24 bits: base class, subclass, programming interface (0x09-0x0b)
  DeviceState state{};
  NodeId borrower{};     ///< 0 when not borrowed
  bool reachable = true; ///< false while the connection to the lender is down
};

} // namespace smartio
