// A loan as its borrower has it, and what it has asked lenders for. Values: who changes them is Node. (What the lender
// has of a loan is a Share, own_devices.hpp.)
#pragma once

#include "events.hpp"

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace smartio::core {

struct Loan {
  /// requested → opening → open → returning → closing → released; a step may be left out, none is gone back.
  enum class Phase : std::uint8_t {
    requested, ///< BorrowRequest sent
    opening,   ///< granted; its socket is being opened
    open,
    returning, ///< ReturnRequest sent: the lender ends it, and the client goes on until it says so
    closing,   ///< the client is told, and has a moment to leave
    released,  ///< nobody uses it; the lender's Answer is outstanding
  } phase = Phase::requested;
  std::uint64_t epoch = 0;
  bool shared = false;
  std::uint64_t window = 0;     ///< bytes of a bridge's window that are reserved for it
  bool kept = false;            ///< until it is returned; else it ends with the last of its
  std::set<ControlId> owners{}; ///< control connections
  std::string user{};           ///< who may use the socket: USER[:GROUP], empty: smartiod's user
  std::string socket{};
  Usage usage{};
  std::uint64_t asked = 0;                  ///< number of its BorrowRequest
  bool unwanted = false;                    ///< with requested: returned once it is granted
  std::optional<Ended> ended{};             ///< set when its end begins
  std::vector<RequestId> asking{};          ///< how it ended: told once it has
  bool taken_back = false;                  ///< the lender waits for Released
  std::optional<std::uint64_t> returning{}; ///< number of the ReturnRequest that has no answer yet
  std::vector<RequestId> waiting{}, returners{};
  std::vector<std::pair<Command, ControlId>> next{}; ///< who takes the device once this loan has ended
};

/// A request to a lender that has no answer yet.
struct Pending {
  enum class Kind : std::uint8_t { borrow, give_back, config } kind;
  LinkId link;
  DeviceId device;
  RequestId reader = 0; ///< of config
  bool late = false;    ///< whoever asked was told that it failed: what it achieves is undone
};

/// A BorrowRequest that waits for the end of a loan.
struct Queued {
  LinkId link;
  BorrowRequest request;
};

} // namespace smartio::core
