// Files that must survive a crash at any moment, and directories owned by one process.
#pragma once

#include "fd.hpp"

#include <cstddef>
#include <optional>
#include <string>

namespace smartio {

/// What is left in it, to its end; EFBIG if that is more than `most` bytes. Errors name `path`.
Result<std::string> read_all(int fd, const std::string& path, std::size_t most = 64U << 20);

/// The whole file; nullopt if there is none. At most 64 MiB.
Result<std::optional<std::string>> read_file(const std::string& path);

/// Of these three: symbolic links are followed if they are this user's or root's, and so must be what they lead to;
/// otherwise not_permitted. The whole file, or nullopt if there is none, as read_file.
Result<std::optional<std::string>> read_own_file(const std::string& path);

/// Replaces the file so that after a crash at any moment it holds the old text or the new one, whole. Blocks for the
/// disk.
Result<void> replace_file(const std::string& path, const std::string& text);

/// Puts the text at the end of the file, which is there already; after a crash at any moment the file holds what it
/// held, and behind that the text or a beginning of it. Blocks for the disk.
Result<void> append_to_file(const std::string& path, const std::string& text);

/// Makes the directory if its parent exists, and locks DIRECTORY/lock for as long as the descriptor lives. Errc::busy
/// if another process has it. The mode of a directory that is there already stays; not_permitted if it, or a symbolic
/// link to it, is another user's (but root's), or if others may write to it.
Result<Fd> own_directory(const std::string& directory, unsigned mode = 0700);

/// Not so once somebody else has made the lock's file anew, with its directory or without.
bool still_owns(const std::string& directory, const Fd& lock);
void leave_directory(const std::string& directory, Fd lock); ///< removes the lock's file, too

} // namespace smartio
