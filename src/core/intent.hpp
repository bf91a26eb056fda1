// What a node's users want kept across restarts, and its file form. Pure.
#pragma once

#include "json.hpp"

#include <chrono>
#include <compare>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace smartio::core {

/// A stored rule for devices of this host, present and future: which (in lspci's syntax, checked and matched by the
/// runtime), and whether they are only added or made available too.
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

std::string encode(const Intent& intent, NodeId node);

/// Errc::bad_request if the text is not a state file of this node.
Result<Intent> parse_intent(std::string_view text, NodeId node);

} // namespace smartio::core
