#include "mounts.hpp"

#include "text.hpp"

#include <algorithm>
#include <sys/stat.h>

namespace smartio::vfio::host {
namespace {

std::optional<::dev_t> block_device(const Root& root, const std::string& source) {
  if (!source.starts_with("/dev/")) return std::nullopt;
  struct stat status {};
  if (::stat((root.dev + source.substr(4)).c_str(), &status) != 0 || !S_ISBLK(status.st_mode)) return std::nullopt;
  return status.st_rdev;
}

} // namespace

std::string unescape(std::string_view text) {
  std::string plain;
  while (!text.empty()) {
    const auto code = text.size() >= 4 && text[0] == '\\' ? parse_number(text.substr(1, 3), 8, 0xff) : std::nullopt;
    plain += code ? static_cast<char>(*code) : text[0];
    text.remove_prefix(code ? 4 : 1);
  }
  return plain;
}

std::vector<Mount> read_mounts(const Root& root) {
  std::vector<Mount> mounts;
  const auto text = read_table(root.proc + "/self/mountinfo").value_or("");
  // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELD ...] - TYPE SOURCE OPTIONS
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    const auto dash = std::ranges::find(words, "-");
    if (words.size() < 6 || words.end() - dash < 3) continue;
    Mount mount{.device = parse_device_number(words[2]), .point = unescape(words[4]), .source = unescape(dash[2])};
    mount.source_device = block_device(root, mount.source);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

std::vector<std::string> read_swaps(const Root& root) {
  std::vector<std::string> swaps;
  const auto text = read_table(root.proc + "/swaps").value_or("");
  for (const auto line : lines_of(text)) {
    const auto words = words_of(line);
    if (!words.empty() && words[0].starts_with('/')) swaps.push_back(unescape(words[0]));
  }
  return swaps;
}

} // namespace smartio::vfio::host
