// The words of the public interface: ids, addresses and descriptions, each its own type.
#pragma once

#include <smartio/version.hpp>

#if SMARTIO_HAS_LANGUAGE

#include <smartio/error.hpp>

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace smartio {
inline namespace v0 {

/// A host running the runtime: 1 to 65535.
enum class NodeId : std::uint16_t {};

/// (lender's node id << 16) | index, printed in hex without 0x: 80002 is device 2 of node 8.
enum class DeviceId : std::uint32_t {};

/// An address as the device emits it; means something only within one device's IOMMU domain, which all borrowers of a
/// shared device are in.
enum class Iova : std::uint64_t {};

/// What the device may do with memory mapped for it.
enum class Access : std::uint8_t { read = 1, write = 2, read_write = 3 };

/// There may be more of them in later versions.
enum class DeviceState : std::uint8_t { unavailable, available, borrowed, quarantined };

/// Which devices, as lspci's options -d and -s say it; a part that is empty holds for all.
struct Filter {
  std::string ids;    ///< "[VENDOR]:[DEVICE][:CLASS]" in hex
  std::string slot{}; ///< "[[[DOMAIN]:]BUS:][SLOT][.FUNCTION]": PCI functions alone, by their lender's addresses
};

/// The filters of a node, which devices that appear are held against.
struct Filters {
  struct Rule {
    Filter filter{};
    bool available = false; ///< what matches is made available; otherwise it is added
  };
  std::vector<Rule> rules{};
  std::vector<std::string> removed{}; ///< addresses of devices that were removed by hand: no rule adds them
};

/// There may be more of them in later versions.
enum class PeerRole : std::uint8_t { lender, borrower, self };
enum class PeerState : std::uint8_t { up, down, connecting };

/// Another node that this one is connected to, or is to be.
struct PeerInfo {
  NodeId node{};
  std::string address;
  PeerRole role{};
  PeerState state{};
};

/// A loan that this node gives or has.
struct LoanInfo {
  DeviceId device{};
  NodeId borrower{};
  std::uint64_t epoch = 0; ///< which loan of the device it is
  bool shared = false;
  std::string socket{};      ///< of the borrower's end; empty where another node has that
  std::optional<int> pid{};  ///< of the program that uses it, where this node knows
  std::uint64_t windows = 0; ///< that the device reaches
  std::uint64_t window_bytes = 0;
  std::uint64_t vectors = 0; ///< that are enabled
};

/// Which configuration space of a device: as VFIO gives it, as the lender's host has it, or as a borrower sees it.
enum class ConfigForm : std::uint8_t { vfio, raw, emulated };

/// How a device is borrowed; there may be more of it in later versions.
struct Borrow {
  /// Up to 32 borrowers have the device at once, and each has 16 GiB of its addresses (Iova) to itself: windows are
  /// there, and take no more than that together.
  bool shared = false;
};

/// How a borrowed device came to its end. There may be more of them in later versions.
enum class LoanEnd : std::uint8_t {
  returned,    ///< given back, by this program or by its host (smartio_tool return)
  taken_back,  ///< by its lender: made unavailable, disconnected, or stopped in order
  lender_lost, ///< the lender, or the connection to its node
  device_lost, ///< pulled out, failed, its server ended, or the bridge to it is cut
  node_lost,   ///< this host's node ended
};

struct Ended {
  LoanEnd how{};
  std::string why; ///< for people
  bool operator==(const Ended&) const = default;
};

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

// Ids and states as smartio_tool and the JSON documents write them; what is written is understood again.
std::string to_string(NodeId node);                                            ///< decimal
std::string to_string(DeviceId id);                                            ///< hex without 0x
std::string_view to_string(DeviceState state) noexcept;                        ///< its name; lives for good
std::string_view to_string(LoanEnd end) noexcept;                              ///< the same
Result<NodeId> parse_node_id(std::string_view text);                           ///< 1 to 65535; Errc::bad_request
Result<DeviceId> parse_device_id(std::string_view text);                       ///< also with 0x; Errc::bad_request
std::optional<DeviceState> parse_device_state(std::string_view text) noexcept; ///< nullopt: none of them
std::optional<LoanEnd> parse_loan_end(std::string_view text) noexcept;         ///< the same
std::ostream& operator<<(std::ostream& out, NodeId node);
std::ostream& operator<<(std::ostream& out, DeviceId id);
std::ostream& operator<<(std::ostream& out, DeviceState state);
std::ostream& operator<<(std::ostream& out, LoanEnd end);

} // namespace v0
} // namespace smartio

#endif
