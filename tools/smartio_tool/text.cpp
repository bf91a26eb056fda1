// `list`, `show` and `status` as text.
#include "print.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <span>
#include <vector>

namespace smartio::tool {
namespace {

using nlohmann::json;

const json& member(const json& object, const char* key) {
  static const json nothing;
  if (!object.is_object()) return nothing;
  const auto found = object.find(key);
  return found == object.end() ? nothing : *found;
}

std::string state_of(const json& device) {
  std::string state = field(device, "state");
  if (state == "borrowed") state += " by " + field(device, "borrower");
  if (member(device, "reachable") == false) state += ", unreachable";
  return state;
}

/// "name  value" lines, the values below each other.
using Lines = std::vector<std::pair<std::string, std::string>>;
std::string aligned(const Lines& lines, std::string_view indent = "") {
  std::size_t width = 0;
  for (const auto& [name, value] : lines) width = std::max(width, name.size());
  std::string out;
  for (const auto& [name, value] : lines) out += fmt::format("{}{:<{}}  {}\n", indent, name, width, value);
  return out;
}

Lines counters(const json& document) {
  Lines lines;
  const json& values = member(document, "counters");
  if (values.is_object())
    for (const auto& value : values.items())
      lines.emplace_back(printable(value.key()), field(values, value.key().c_str()));
  return lines;
}

/// One row per element of the array `key`, one column per entry of `columns`, which name members; nothing if empty.
std::string table(const json& document, const char* key, std::span<const char* const> columns) {
  const json& rows = member(document, key);
  if (!rows.is_array() || rows.empty()) return {};
  std::vector<std::vector<std::string>> cells;
  cells.emplace_back(columns.begin(), columns.end());
  for (const json& row : rows) {
    auto& line = cells.emplace_back();
    for (const char* column : columns) line.push_back(field(row, column));
  }
  std::string out = fmt::format("\n{}\n", key);
  std::vector<std::size_t> widths(columns.size());
  for (const auto& line : cells)
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  for (const auto& line : cells) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) text += fmt::format("  {:<{}}", line[i], widths[i]);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + '\n';
  }
  return out;
}

std::string device_lines(const json& devices, std::string_view indent) {
  std::string out;
  if (devices.is_array())
    for (const json& device : devices)
      out += fmt::format("{}{}: {} [{}]\n", indent, field(device, "id"), field(device, "name"), state_of(device));
  return out;
}

Lines loan_lines(const json& loan) {
  Lines lines;
  for (const char* name :
       {"borrower", "epoch", "shared", "client", "pid", "socket", "access", "windows", "window_bytes", "vectors"})
    lines.emplace_back(name, field(loan, name));
  return lines;
}

std::string bar_lines(const json& bars) {
  std::string out;
  if (bars.is_array())
    for (const json& bar : bars)
      out += fmt::format("  BAR {}: {} bytes, {} of them mapped\n", field(bar, "bar"), field(bar, "size"),
                         field(bar, "mapped_bytes"));
  return out;
}

} // namespace

std::string print_list(const json& document) { return device_lines(member(document, "devices"), ""); }

std::string print_filters(const json& document) {
  std::string out;
  for (const auto& rule : member(document, "filters")) {
    out += member(rule, "available") == true ? "available-filter" : "add-filter";
    if (const auto ids = field(rule, "ids"); !ids.empty()) out += " -d " + ids;
    if (const auto slot = field(rule, "slot"); !slot.empty()) out += " -s " + slot;
    out += '\n';
  }
  for (const auto& address : member(document, "removed"))
    if (address.is_string()) out += fmt::format("remove {}\n", printable(address.get_ref<const std::string&>()));
  return out;
}

std::string print_show(const json& document) {
  const json& device = member(document, "device");
  Lines lines{{"device", field(device, "id")}, {"name", field(device, "name")}, {"state", state_of(device)}};
  if (member(document, "reason").is_string()) lines.emplace_back("reason", field(document, "reason"));
  for (const char* name : {"node", "address", "bdf", "class", "vendor"}) lines.emplace_back(name, field(device, name));
  lines.emplace_back("device code", field(device, "device"));
  lines.emplace_back("IOMMU group", field(document, "iommu_group"));
  for (const char* name : {"interface", "driver", "fabric", "vectors"}) lines.emplace_back(name, field(document, name));
  std::string out = aligned(lines) + "\nregisters\n" + bar_lines(member(document, "bars"));
  if (member(document, "loan").is_object()) out += "\nloan\n" + aligned(loan_lines(member(document, "loan")), "  ");
  const Lines counts = counters(document);
  return counts.empty() ? out : out + "\ncounters\n" + aligned(counts, "  ");
}

std::string print_status(const json& document) {
  static constexpr const char* peers[]{"node", "role", "state", "address", "since"};
  static constexpr const char* fabrics[]{"kind", "address", "peer", "state", "reason", "aperture_bytes", "used_bytes"};
  static constexpr const char* loans[]{"device", "borrower", "epoch",        "shared",  "client", "pid",
                                       "access", "windows",  "window_bytes", "vectors", "socket"};
  Lines lines{{"node", field(document, "node")}, {"version", field(document, "version")}};
  if (member(document, "unsaved").is_string()) lines.emplace_back("unsaved", field(document, "unsaved"));
  std::string out = aligned(lines);
  out += table(document, "peers", peers) + table(document, "fabrics", fabrics);
  const std::string devices = device_lines(member(document, "devices"), "  ");
  if (!devices.empty()) out += "\ndevices\n" + devices;
  out += table(document, "loans", loans);
  const Lines counts = counters(document);
  return counts.empty() ? out : out + "\ncounters\n" + aligned(counts, "  ");
}

} // namespace smartio::tool
