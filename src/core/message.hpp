// What nodes say to each other over the peer connection, as values, and their JSON form. Pure.
//
// The lender dials. Both ends send Hello first; a lender then sends its devices and keeps them current. Every
// BorrowRequest and ReturnRequest gets exactly one Answer with the same number, every ConfigRequest one ConfigAnswer.
#pragma once

#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace smartio::core {

inline constexpr std::uint64_t protocol_version = 1;

/// Who speaks, and how memory of the two could meet. `fabric_token` and `nonce` belong to the local fabric: nodes with
/// equal boot ids are on one host; the token names the lender's socket, and the borrower proves the lender's nonce
/// there.
struct Hello {
  std::uint64_t version = protocol_version;
  NodeId node{};
  NodeId to{}; ///< the node the speaker believes it talks to; 0 from the side that was dialled before it knows
  std::string boot_id;
  std::string fabric_token; ///< 32 hex digits; empty: no local fabric
  std::string nonce;        ///< 64 hex digits
  bool operator==(const Hello&) const = default;
};

/// The connection is not wanted; the reason is a sentence. The speaker closes it.
struct Refused {
  std::string reason;
  bool operator==(const Refused&) const = default;
};

/// One device of the lender.
struct DeviceEntry {
  DeviceId id{};
  std::string address, name;
  std::uint16_t vendor = 0, device = 0;
  std::uint32_t class_code = 0;
  DeviceState state{};
  NodeId borrower{};
  bool operator==(const DeviceEntry&) const = default;
};

/// Devices that are new or changed, and ids that are gone.
struct Devices {
  std::vector<DeviceEntry> changed;
  std::vector<DeviceId> removed;
  bool operator==(const Devices&) const = default;
};

struct BorrowRequest {
  std::uint64_t number;
  DeviceId device;
  bool shared;
  bool operator==(const BorrowRequest&) const = default;
};
struct ReturnRequest {
  std::uint64_t number;
  DeviceId device;
  std::uint64_t epoch;
  bool operator==(const ReturnRequest&) const = default;
};
/// Of a request: the loan's epoch, or an error.
struct Answer {
  std::uint64_t number;
  std::uint64_t epoch = 0;
  Errc code{}; ///< 0: done
  std::string message;
  bool operator==(const Answer&) const = default;
};

/// Which configuration space: as VFIO gives it, as the lender's host has it, or as a borrower sees it.
struct ConfigRequest {
  std::uint64_t number;
  DeviceId device;
  ConfigForm form;
  bool operator==(const ConfigRequest&) const = default;
};
/// Of a ConfigRequest: two hex digits a byte, or an error.
struct ConfigAnswer {
  std::uint64_t number;
  std::string hex;
  Errc code{}; ///< 0: done
  std::string message;
  bool operator==(const ConfigAnswer&) const = default;
};

/// Lender: this loan has ended; the device no longer reaches the borrower's memory. Answered by Released.
struct TakenBack {
  DeviceId device;
  std::uint64_t epoch;
  std::string reason;
  bool lost = false; ///< the device, to its lender, too
  bool operator==(const TakenBack&) const = default;
};
/// Borrower: no client of that loan has anything of the device mapped any more.
struct Released {
  DeviceId device;
  std::uint64_t epoch;
  bool operator==(const Released&) const = default;
};
/// Sent every 500 ms while a loan exists between the two, ending ones included.
struct Heartbeat {
  bool asks = false; ///< for one in return, now: is the speaker still heard?
  bool operator==(const Heartbeat&) const = default;
};

using Message = std::variant<Hello, Refused, Devices, BorrowRequest, ReturnRequest, Answer, TakenBack, Released,
                             Heartbeat, ConfigRequest, ConfigAnswer>;

std::string encode(const Message& message);
/// Errc::bad_request for anything that is not exactly one of the messages above, with every field in range.
Result<Message> decode(std::string_view json);

/// At most this many devices travel in one Devices message, so that it stays far below the frame limit.
inline constexpr std::size_t devices_per_message = 128;
/// Longer texts (names, addresses, reasons) are refused.
inline constexpr std::size_t text_limit = 1024;

std::string_view name_of(ConfigForm form);
std::optional<ConfigForm> parse_form(std::string_view text); ///< "vfio", "raw", "emulated"
std::string_view name_of(Errc code);                         ///< "no_such_device"
std::optional<Errc> parse_errc(std::string_view name);

} // namespace smartio::core
