#include "server_watch.hpp"

#include <algorithm>
#include <sys/stat.h>
#include <vector>

namespace smartio {

namespace {

constexpr std::chrono::milliseconds first_pause{100}, longest_pause{4000};

}

ServerWatch::Identity ServerWatch::identity_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return {};
  return {status.st_ino, status.st_ctim.tv_sec * 1'000'000'000 + status.st_ctim.tv_nsec};
}

void ServerWatch::trying(const std::string& path) { servers_[path] = {identity_of(path)}; }

void ServerWatch::missed(const std::string& path, bool again) {
  auto& server = servers_[path];
  server.away = true;
  server.again = again ? Clock::now() + longest_pause : Clock::time_point::max();
  pause_ = first_pause;
  if (!armed_) look_later();
}

void ServerWatch::look_later() {
  armed_ = true;
  timer_.expires_after(pause_);
  timer_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    armed_ = false;
    look();
  });
}

void ServerWatch::look() {
  std::vector<std::string> found;
  for (auto& [path, server] : servers_) {
    const auto now = server.away ? identity_of(path) : Identity{};
    if (now == Identity{} || (now == server.tried && Clock::now() < server.again)) continue;
    server = {now};
    found.push_back(path);
  }
  pause_ = std::min(2 * pause_, longest_pause);
  if (std::ranges::any_of(servers_, [](const auto& server) { return server.second.away; })) look_later();
  for (const auto& path : found) back_(path);
}

} // namespace smartio
