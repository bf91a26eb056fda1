#include "directories.hpp"

#include "file.hpp"
#include "host/filter.hpp"
#include "result.hpp"

#include <filesystem>
#include <unistd.h>

namespace smartio {

namespace {
constexpr std::size_t longest_run_dir = 80; ///< with what comes after it, a socket's path has 108 bytes
} // namespace

Result<Directories> Directories::open(const Config& config) {
  Directories directories(config);
  if (config.run_dir.size() > longest_run_dir)
    return fail(Errc::bad_request, "{} is too long for a run directory: at most {} bytes", config.run_dir,
                longest_run_dir);
  if (!config.run_dir.empty()) {
    // Users to whom a loan is given pass through; each socket has its own mode.
    directories.run_lock_ = TRY(own_directory(config.run_dir, 0711));
    // What a crash left: sockets nobody serves. Nobody else may be here, the directory is ours.
    std::error_code ignored;
    std::filesystem::remove_all(directories.loans(), ignored);
  }
  if (!config.state_dir.empty()) directories.state_lock_ = TRY(own_directory(config.state_dir));
  return directories;
}

void Directories::leave() {
  std::error_code ignored;
  if (still_owns(run_, run_lock_)) {
    ::unlink(control_socket().c_str());
    std::filesystem::remove(loans(), ignored);
  }
  leave_directory(run_, std::move(run_lock_));
  leave_directory(state_, std::move(state_lock_));
}

Result<core::Intent> Directories::read_state(NodeId node) const {
  if (!has_state()) return core::Intent{};
  const auto text = TRY(read_own_file(state_file()));
  if (!text) return core::Intent{};
  auto intent = core::parse_intent(*text, node);
  if (!intent) return fail(Errc::bad_request, "{}: {}", state_file(), intent.error().context);
  for (const auto& rule : intent->filters)
    if (const auto filter = vfio::host::Filter::parse(rule.ids, rule.slot); !filter)
      return fail(Errc::bad_request, "{}: it is damaged: 'filters': {}; move it away to start anew", state_file(),
                  filter.error().context);
  return intent;
}

} // namespace smartio
