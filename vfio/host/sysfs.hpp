// Where the kernel's files are, and reading them. What they say is input: text that is parsed, never trusted.
#pragma once

#include "fd.hpp"

#include <smartio/error.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace smartio::vfio::host {

/// The folders below which everything in this folder looks. Tests put a tree of their own there.
struct Root {
  std::string sys = "/sys", dev = "/dev", proc = "/proc", run = "/run", etc = "/etc";
};

/// Opens for reading what is a file, as all is that the kernel has; a pipe in its place would be waited for.
Result<Fd> open_file(const std::string& path);
/// The text of an attribute without the blanks at its end; nullopt if it cannot be read, or has more than 64 KiB: the
/// kernel's have a page at most.
std::optional<std::string> read_text(const std::string& path);
/// The same of a table, which grows with what the host has: at most 64 MiB.
std::optional<std::string> read_table(const std::string& path);
/// An attribute that holds one number, with or without 0x; nullopt if it cannot be read or holds anything else.
std::optional<std::uint64_t> read_number(const std::string& path, int base = 10);
/// "MAJOR:MINOR" in an attribute named `dev`.
std::optional<::dev_t> parse_device_number(std::string_view text);
/// The last part of what a symbolic link names ("nvme" for a `driver` link); nullopt if there is no link.
std::optional<std::string> link_name(const std::string& path);
/// The names in a folder, sorted; empty if it cannot be read.
std::vector<std::string> list(const std::string& folder);
bool exists(const std::string& path);

std::vector<std::string_view> lines_of(std::string_view text);
std::vector<std::string_view> words_of(std::string_view text); ///< parts between blanks and tabs

} // namespace smartio::vfio::host
