// What a node's users want kept across restarts, and its file form. Pure.
#pragma once

#include "json.hpp"
#include "who.hpp"

#include <chrono>
#include <compare>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace smartio::core {

/// A stored rule for devices of this host, present and future: which (in lspci's syntax, checked and matched by the
/// shell), and whether they are only added or made available too.
struct FilterRule {
  std::string ids;  ///< of lspci -d: "[vendor]:[device][:class]"; empty: any
  std::string slot; ///< of lspci -s: "[[[domain]:]bus:][slot][.func]"; empty: any
  bool available = false;
  auto operator<=>(const FilterRule&) const = default;
};

struct Intent {
  struct Device {
    std::string address;
    bool available = false;
    bool without_reset = false; ///< its owner lends it although nothing clears it between its borrowers
    Who who{};                  ///< that was there when it was added, or made available, last
    bool by_filter = false;     ///< added by one, and by nobody's hand since
    bool operator==(const Device&) const = default;
  };
  std::map<std::uint16_t, Device> devices;    ///< by index: an id stays the same while its device stays added
  std::map<NodeId, std::string> connections;  ///< borrowers, and where to dial them
  std::map<std::string, std::string> options; ///< set with `config`
  std::set<FilterRule> filters;
  std::set<std::string> removed; ///< addresses removed by hand: no filter adds them again
  bool operator==(const Intent&) const = default;
};

/// What stands between commas; nothing in an empty text.
std::vector<std::string> split_list(std::string_view text);

/// A state file: a line of JSON that holds all of it; behind that may stand one for each change since.
std::string encode(const Intent& intent, NodeId node);

/// Such a line: what the intent holds now of a device (or that it holds none), of a connection, or of a whole part.
std::string device_line(const Intent& intent, std::uint16_t index);
std::string device_lines(const Intent& intent, const std::set<std::uint16_t>& indices); ///< of several at once
std::string connection_line(const Intent& intent, NodeId peer);
std::string options_line(const Intent& intent);
std::string filters_line(const Intent& intent);
std::string removed_line(const Intent& intent);

/// Errc::bad_request if the text is not a state file of this node. A change that a crash has cut off, at the end, was
/// not made.
Result<Intent> parse_intent(std::string_view text, NodeId node);

} // namespace smartio::core
