#include "server_names.hpp"

#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/stat.h>

namespace smartio {

std::string socket_at(const std::string& path) {
  struct statx found {}; // statx(2): where nobody knows when it was made, that is 0
  if (::statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE | STATX_INO | STATX_BTIME, &found) != 0) return {};
  if (!S_ISSOCK(found.stx_mode)) return {};
  return fmt::format("{}:{} {} {}.{}", found.stx_dev_major, found.stx_dev_minor, found.stx_ino, found.stx_btime.tv_sec,
                     found.stx_btime.tv_nsec);
}

void ServerNames::look(DeviceId id, const std::string& path) {
  forget(id);
  std::error_code ignored;
  const auto socket = socket_at(path);
  const auto whole = socket.empty() ? std::string() : std::filesystem::canonical(path, ignored).string();
  names_[id] = {path, socket, whole};
  for (const auto& key : {socket, whole})
    if (!key.empty()) seen_[key].insert(id);
}

void ServerNames::forget(DeviceId id) {
  const auto name = names_.extract(id);
  if (name.empty()) return;
  for (const auto& key : {name.mapped().socket, name.mapped().whole}) {
    const auto found = seen_.find(key);
    if (found == seen_.end()) continue;
    found->second.erase(id);
    if (found->second.empty()) seen_.erase(found);
  }
}

std::shared_ptr<void> ServerNames::hold(DeviceId id) {
  const auto at = open_->insert(id);
  return {nullptr, [open = open_, at](void*) { open->erase(at); }};
}

std::optional<DeviceId> ServerNames::other(DeviceId id, bool any) const {
  const auto name = names_.find(id);
  if (name == names_.end() || name->second.socket.empty()) return std::nullopt;
  const auto& [path, socket, whole] = name->second;
  for (const auto each : seen_.at(socket))
    if (each != id && open_->contains(each)) return each;
  if (!any) return std::nullopt;
  for (const auto& key : {socket, whole}) {
    const auto found = seen_.find(key);
    if (found == seen_.end()) continue;
    for (const auto each : found->second)
      if (each != id && socket_at(names_.at(each).path) == socket) return each;
  }
  return std::nullopt;
}

} // namespace smartio
