#include "journal.hpp"

#include "file.hpp"
#include "result.hpp"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace smartio::vfio::host {
namespace {

using nlohmann::json;

constexpr int version = 1;
constexpr int stopped = 77; ///< exit code of a process that SMARTIO_STOP_AT ended

json encode(const std::optional<std::string>& text) { return text ? json(*text) : json(nullptr); }

bool decode_text(const json& value, std::optional<std::string>& text) {
  if (value.is_null()) return true;
  if (!value.is_string()) return false;
  text = value.get<std::string>();
  return !text->empty();
}

/// A driver's name, which becomes part of a path; false if it is none.
bool decode_name(const json& value, std::optional<std::string>& name) {
  if (!decode_text(value, name) || !name) return value.is_null();
  return name->find('/') == std::string::npos && *name != "." && *name != "..";
}

std::optional<Entry> decode_entry(const json& value) {
  if (!value.is_object()) return std::nullopt;
  for (const char* name : {"bdf", "driver", "driver_override", "step"})
    if (!value.contains(name)) return std::nullopt;
  if (!value["bdf"].is_string() || !value["step"].is_string()) return std::nullopt;
  const auto bdf = parse_bdf(value["bdf"].get<std::string>());
  if (!bdf) return std::nullopt;
  Entry entry{.bdf = *bdf, .step = value["step"].get<std::string>()};
  // An override is whatever somebody wrote there.
  if (!decode_name(value["driver"], entry.driver) || !decode_text(value["driver_override"], entry.driver_override))
    return std::nullopt;
  if (const auto identity = value.find("identity"); identity != value.end() && !decode_text(*identity, entry.identity))
    return std::nullopt;
  return entry;
}

std::optional<std::map<Bdf, Entry>> decode(const json& journal) {
  std::map<Bdf, Entry> entries;
  for (const auto& value : journal["functions"]) {
    auto entry = decode_entry(value);
    if (!entry) return std::nullopt;
    entries.insert_or_assign(entry->bdf, std::move(*entry));
  }
  return entries;
}

bool is_journal(const json& value) {
  return value.is_object() && value.contains("schema_version") && value["schema_version"] == version &&
         value.contains("boot") && value["boot"].is_string() && value.contains("functions") &&
         value["functions"].is_array();
}

/// The test hook of crashes.
void stop_at(std::string_view step) {
  const char* wanted = std::getenv("SMARTIO_STOP_AT");
  if (wanted != nullptr && step == wanted) ::_exit(stopped);
}

} // namespace

Result<Journal> Journal::open(std::string path, std::string boot) {
  const auto text = TRY(read_own_file(path));
  Journal journal(std::move(path), std::move(boot));
  if (!text) return journal;
  const auto value = json::parse(*text, nullptr, false);
  auto entries = is_journal(value) ? decode(value) : std::nullopt;
  if (!entries)
    return fail(Errc::bad_request,
                "{} is damaged. See which drivers are bound to the devices that were lent, then remove it.",
                journal.path_);
  if (value["boot"] == journal.boot_) journal.entries_ = std::move(*entries);
  return journal;
}

Result<void> Journal::record(Entry entry, std::string_view step) {
  entry.step = step;
  auto entries = entries_;
  const auto bdf = entry.bdf;
  entries.insert_or_assign(bdf, std::move(entry));
  TRY(write(std::move(entries)));
  stop_at(step);
  return {};
}

void Journal::forget(const Bdf& bdf) {
  entries_.erase(bdf);
  if (entries_.empty())
    ::unlink(path_.c_str());
  else [[maybe_unused]]
    const auto written = write(entries_);
}

Result<void> Journal::write(std::map<Bdf, Entry> entries) {
  auto functions = json::array();
  for (const auto& [bdf, entry] : entries)
    functions.push_back({{"bdf", to_string(bdf)},
                         {"driver", encode(entry.driver)},
                         {"driver_override", encode(entry.driver_override)},
                         {"step", entry.step},
                         {"identity", encode(entry.identity)}});
  const json journal{{"schema_version", version}, {"boot", boot_}, {"functions", std::move(functions)}};
  // Names from sysfs need not be UTF-8.
  TRY(replace_file(path_, journal.dump(2, ' ', false, json::error_handler_t::replace) + '\n'));
  entries_ = std::move(entries);
  return {};
}

} // namespace smartio::vfio::host
