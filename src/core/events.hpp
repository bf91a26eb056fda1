// What a node is told (Event) and what it wants done (Effect). The node decides; the shell performs effects and turns
// their outcome into the next events. No descriptor, clock or thread appears here.
#pragma once

#include "intent.hpp"
#include "json.hpp"
#include "message.hpp"
#include "resolver.hpp"

#include <array>
#include <chrono>
#include <compare>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace smartio::core {

using LinkId = std::uint64_t;            ///< one peer connection, named by the shell
inline constexpr LinkId first_link = 16; ///< of the shell's; those below are the node's own
using RequestId = std::uint64_t;         ///< one control command under way
using ControlId = std::uint64_t;         ///< one control connection; 0: the program that embeds the node
using Time = std::chrono::system_clock::time_point;

/// What a device says of itself.
struct Identity {
  std::uint16_t vendor = 0, device = 0;
  std::uint32_t class_code = 0; ///< 24 bits
  std::string name;             ///< lspci's text
  std::array<std::uint64_t, 6> bar_size{};
  std::array<std::uint64_t, 6> bar_mapped{}; ///< bytes of each BAR that a borrower can map
  unsigned vectors = 0;                      ///< MSI-X
  std::optional<unsigned> iommu_group{};     ///< none behind a vfio-user socket
  std::string interface = "vfio-user";       ///< how it is driven: vfio-user, type1, iommufd; "" while it is not
  std::string driver{};                      ///< that is bound to it on this host; "" where there is none
  Who who{};
};

/// A loan, named: a device and which of its loans.
struct LoanId {
  DeviceId device{};
  std::uint64_t epoch = 0;
  auto operator<=>(const LoanId&) const = default;
};

/// Who uses a loan right now, and how much; for `status`. Told by the shell of the borrower.
struct Usage {
  std::string client; ///< "libsmartio" or "vfio-user"; empty: nobody
  int pid = 0;
  bool trapped = false; ///< may map no registers, so each access is a message
  std::uint64_t windows = 0, window_bytes = 0, vectors = 0;
  std::uint64_t unreachable_windows = 0; ///< that came without a descriptor; not among the above
  std::string problem{};                 ///< why the device failed for its newest client; empty: it did not
  bool operator==(const Usage&) const = default;
};

struct Timer {
  enum class Kind : std::uint8_t { redial, hello, heartbeat, silence, answer, rival } kind;
  std::uint64_t key; ///< a node, link or request number, by kind; heartbeat: 0
  auto operator<=>(const Timer&) const = default;
};

// Events
struct Started {};  ///< once, first
struct Stopping {}; ///< no new loans; what there is ends. Idle follows
struct Command {
  RequestId request;
  ControlId from;
  std::string name;
  Json arguments;
};
struct ControlClosed {
  ControlId control;
};
struct Accepted {
  LinkId link;
  std::string nonce;
  std::string from{}; ///< address of the other end, for a person
};                    ///< a lender dialled us
struct Crowded {};    ///< somebody dialled us, and there is no place for one more
struct Dialled {
  NodeId node;
  LinkId link;
  std::string nonce;
}; ///< we reached a borrower
struct DialFailed {
  NodeId node;
  std::string why;
};
struct Received {
  LinkId link;
  Message message;
};
struct LinkDown {
  LinkId link;
  std::string why;
}; ///< closed by the other end, or malformed
struct TimerFired {
  Timer timer;
  std::chrono::milliseconds late{}; ///< after its time: this process, or its host, stood still
};
/// A bridge of this host: whom it leads to, and whether that is reached.
struct BridgeChanged {
  std::string address; ///< of the bridge
  NodeId peer{};       ///< 0: not known
  bool up = false;
  std::uint64_t aperture_bytes = 0, used_bytes = 0; ///< of the peer's window; of ours, by what the peer may reach
  std::string reason;                               ///< why it is down
};
struct DeviceProbed {
  DeviceId device;
  Result<Identity> identity;
  std::string same_as{}; ///< address of the device that has its server, under another name; that was not asked then
};
struct DeviceOpened {
  DeviceId device;
  Result<Identity> identity;
};
struct DeviceClosed {
  DeviceId device;
  std::optional<Error> error; ///< it did not go back to its driver: why
  std::string driver;         ///< that has it now
};
struct DeviceVanished {
  std::string address;
  std::string why;
}; ///< of this host, pulled out or unbound
struct DeviceAppeared {
  std::string address;
}; ///< of this host
struct DeviceIdentified {
  std::string address;
}; ///< of this host: its driver has asked it for its serial number
/// A device of this host, where it is.
struct Seen {
  std::string address;
  Who who;
};
struct DevicesFound {
  std::vector<Seen> seen;
};
struct HostScanned {
  RequestId request; ///< of the ScanHost
  /// For each of its rules, the addresses that match; a rule that is none is an error.
  Result<std::vector<std::vector<std::string>>> matches;
};
/// What Save asks for could not be done any more, or could be done again; said when that changes.
struct StateSaved {
  std::optional<Error> error;
};
struct ConfigRead {
  RequestId request;
  Result<std::string> hex; ///< the configuration space, two digits a byte
};
struct DeviceLost {
  DeviceId device;
  std::string why;
}; ///< open, and its server went away
struct TellClients {
  LoanId loan;
}; ///< of EndLoan: the borrower must let go now
struct LoanEnded {
  LoanId loan;
  std::optional<Error> error;
}; ///< device open again, or why it is not
struct UseEnded {
  LoanId loan;
  std::optional<Error> error;
}; ///< a client left; the same for a kept loan
struct LoanOpened {
  LoanId loan;
  Result<std::string> socket;
}; ///< at the borrower
struct LoanClosed {
  LoanId loan;
}; ///< at the borrower: no client any more
struct FabricLost {
  LoanId loan;
  std::string why;
}; ///< at the borrower
struct UsageChanged {
  LoanId loan;
  Usage usage;
}; ///< at the borrower

using Event =
    std::variant<Started, Stopping, Command, ControlClosed, Accepted, Crowded, Dialled, DialFailed, Received, LinkDown,
                 TimerFired, BridgeChanged, DeviceProbed, DeviceOpened, DeviceClosed, DeviceVanished, DeviceAppeared,
                 DeviceIdentified, DevicesFound, DeviceLost, HostScanned, StateSaved, ConfigRead, TellClients,
                 LoanEnded, UseEnded, LoanOpened, LoanClosed, FabricLost, UsageChanged>;

// Effects
struct Reply {
  RequestId request;
  Result<Json> result; ///< an object, or the text of one: long ones are never a tree
  std::string note;
};
struct Emit {
  Json event;
}; ///< to everyone who monitors
struct Save {
  std::string line;
}; ///< for the state file (intent.hpp); "": nothing has changed, but it is written now
struct Dial {
  NodeId node;
  std::string address;
};
struct Send {
  LinkId link;
  Message message;
};
struct Drop {
  LinkId link;
}; ///< after what was sent; no LinkDown follows
struct Arm {
  Timer timer;
  std::chrono::milliseconds after;
}; ///< replaces an armed one
struct Disarm {
  Timer timer;
};
struct ProbeDevice {
  DeviceId device;
  std::string address;
  Who who{};           ///< what is remembered of it
  bool is_new = false; ///< it is to be added: unless another one that was has its server, whether that is open or not
};
struct FindDevices {}; ///< of this host, wherever they are; answered by DevicesFound
struct OpenDevice {
  DeviceId device;
  std::string address;
  std::string iommu = "auto";            ///< the option of that name
  bool force = false;                    ///< whether or not something uses it
  std::vector<std::string> companions{}; ///< addresses of all added devices: these of its group may be bound with it
  bool without_reset = false;            ///< although it cannot be reset
  Who who{};                             ///< no other than this
};
struct CloseDevice {
  DeviceId device;
}; ///< and back to its driver; answered by DeviceClosed
struct ForgetDevice {
  DeviceId device;
}; ///< it is not open, and was removed, or never added since its probe failed
/// A device that was added, as it was when it was looked at last.
struct Added {
  std::string address;
  std::uint16_t vendor, device;
  std::uint32_t class_code;
};
struct ScanHost {
  RequestId request;
  std::vector<FilterRule> rules;
  std::vector<Added> added; ///< these match, too, whether or not they are functions that this host has now
};
struct ReadConfig {
  RequestId request;
  DeviceId device;
  std::string address;
  ConfigForm form;
};
struct EndLoan {
  LoanId loan;
  bool last;
}; ///< lender: end_of_loan.hpp's steps
struct ClientsReleased {
  LoanId loan;
}; ///< lender: the borrower let go
struct OpenLoan {
  LoanId loan;
  Fabric fabric;
  LinkId link;                     ///< to the lender
  std::string fabric_token, nonce; ///< of the local fabric
  std::string owner;
  bool shared;
  std::uint64_t window; ///< bytes of the bridge's window that are its own; 0: what there is
};                      ///< borrower
struct UseBridges {
  std::vector<std::string> addresses;
  std::chrono::milliseconds silence; ///< after which a peer counts as dead; for those that are not in use yet
};                                   ///< these and no others
struct CloseLoan {
  LoanId loan;
  bool orderly;
}; ///< borrower: tell the client, close
struct Log {
  int level;
  std::string text; ///< one line, printable
};
struct Idle {}; ///< once, after Stopping: no loan is left

using Effect = std::variant<Reply, Emit, Save, Dial, Send, Drop, Arm, Disarm, ProbeDevice, FindDevices, OpenDevice,
                            CloseDevice, ForgetDevice, ScanHost, ReadConfig, EndLoan, ClientsReleased, OpenLoan,
                            CloseLoan, UseBridges, Log, Idle>;

} // namespace smartio::core
