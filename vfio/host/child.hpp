// Things that may never return, done where they hurt nobody: in a process of their own.
#pragma once

#include <smartio/error.hpp>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace smartio::vfio::host {

/// open(O_WRONLY), write, close in a child that shares nothing with this process. A thread would not do: a write that
/// hangs in the kernel cannot be killed, and while one thread hangs, no descriptor of its process is ever closed, those
/// of other lent devices included. The child has no descriptors, and of this process' memory only copies (mappings
/// of device registers must be MADV_DONTFORK). Errc::timed_out: it hangs and goes on in the background; an errno: what
/// open or write said.
Result<void> write_in_child(const std::string& path, const std::string& text, std::chrono::milliseconds patience);

/// Likewise the text of a small file (the first 1000 bytes), without the blanks at its end.
Result<std::string> read_in_child(const std::string& path, std::chrono::milliseconds patience);

/// The bytes of a file, `most` at most. Errc::timed_out: it is given up, and ended within a second more if the kernel
/// lets it; an errno: what open or read said.
Result<std::vector<std::byte>> read_bytes_in_child(const std::string& path, std::size_t most,
                                                   std::chrono::milliseconds time);

/// Runs `program` with two arguments and no output; waits for its end, but not longer than `patience`.
void run_in_child(const char* program, const char* first, const char* second, std::chrono::milliseconds patience);

} // namespace smartio::vfio::host
