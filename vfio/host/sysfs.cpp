#include "sysfs.hpp"

#include "file.hpp"
#include "result.hpp"
#include "text.hpp"

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace smartio::vfio::host {
namespace {

constexpr std::size_t largest_attribute = 64U << 10, largest_table = 64U << 20; ///< bytes

/// Looks at each character once: find_first_of() of GCC 12 asks memchr() for every one, which tables are too long for.
template <class Separates> std::vector<std::string_view> split(std::string_view text, Separates separates) {
  std::vector<std::string_view> parts;
  for (auto at = text.begin();;) {
    const auto start = std::find_if_not(at, text.end(), separates);
    if (start == text.end()) return parts;
    at = std::find_if(start, text.end(), separates);
    parts.emplace_back(start, at);
  }
}

std::optional<std::string> read_up_to(std::size_t most, const std::string& path) {
  const auto fd = open_file(path);
  if (!fd) return std::nullopt;
  auto text = read_all(fd->get(), path, most);
  if (!text) return std::nullopt;
  text->erase(text->find_last_not_of(" \n\t") + 1);
  return std::move(*text);
}

} // namespace

Result<Fd> open_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, "open " + path);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, "look at " + path);
  if (!S_ISREG(status.st_mode)) return fail(Errc::bad_request, "{} is not a file.", path);
  return fd;
}

std::optional<std::string> read_text(const std::string& path) { return read_up_to(largest_attribute, path); }
std::optional<std::string> read_table(const std::string& path) { return read_up_to(largest_table, path); }

std::optional<std::uint64_t> read_number(const std::string& path, int base) {
  const auto text = read_text(path);
  if (!text) return std::nullopt;
  std::string_view digits = *text;
  if (digits.starts_with("0x")) digits.remove_prefix(2), base = 16;
  return parse_number(digits, base);
}

std::optional<::dev_t> parse_device_number(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == text.npos) return std::nullopt;
  const auto major = parse_number(text.substr(0, colon), 10, UINT32_MAX);
  const auto minor = parse_number(text.substr(colon + 1), 10, UINT32_MAX);
  if (!major || !minor) return std::nullopt;
  return makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor));
}

std::optional<std::string> link_name(const std::string& path) {
  std::error_code error;
  const auto target = std::filesystem::read_symlink(path, error);
  if (error) return std::nullopt;
  return target.filename().string();
}

std::vector<std::string> list(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  std::ranges::sort(names);
  return names;
}

bool exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::vector<std::string_view> lines_of(std::string_view text) {
  return split(text, [](char c) { return c == '\n'; });
}
std::vector<std::string_view> words_of(std::string_view text) {
  return split(text, [](char c) { return c == ' ' || c == '\t'; });
}

} // namespace smartio::vfio::host
