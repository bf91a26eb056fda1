// The exit codes of the command-line tools, which scripts rely on.
#pragma once

#include <smartio/error.hpp>

namespace smartio {

/// 1 failed, 2 usage, 3 no such device or node, 4 busy, in use or in the wrong state, 5 not permitted, 6 peer, daemon
/// or device not reachable.
int exit_code(const Error& error) noexcept;

} // namespace smartio
