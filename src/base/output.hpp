// What programs say on standard output and standard error. No buffer is in between: what one write could not tell is
// not found again by the next.
#pragma once

#include <smartio/error.hpp>

#include <csignal>
#include <cstddef>
#include <fmt/format.h>
#include <span>
#include <string_view>

namespace smartio {

/// The first thing in main(). Descriptors 0 to 2 that are closed are taken, so that no socket or file of ours becomes
/// what the program prints into: by /dev/null, open the wrong way, so that to read or write is EBADF as it was. SIGPIPE
/// and SIGXFSZ are ignored: a reader that has gone, and a file at its size limit, are errors of that one write.
Result<void> prepare_standard_streams();

/// The signals that are ignored only since then: a program that is started has them as its user left them.
const ::sigset_t& ignored_for_output() noexcept;

/// All of it; the errno of a failed write, on `where`. Waits for room even where O_NONBLOCK is set: whoever else has
/// the same open file may have set it.
Result<void> write_all(int fd, std::span<const std::byte> bytes, std::string_view where = "standard output");
Result<void> write_output(std::string_view text); ///< on standard output

/// On standard error, if that takes it: nobody is left to hear that it does not.
void say_text(std::string_view text) noexcept;
template <class... Args> void say(fmt::format_string<Args...> format, Args&&... args) {
  say_text(fmt::format(format, std::forward<Args>(args)...));
}

/// As say_text, but does not wait for a reader that stands still: false if there was no room for the whole text. One of
/// up to PIPE_BUF bytes is written whole or not at all, unless other processes write there too.
bool say_at_once(std::string_view text) noexcept;

} // namespace smartio
