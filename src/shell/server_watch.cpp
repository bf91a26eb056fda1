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

void ServerWatch::trying(const std::string& path) {
  tried_[path] = identity_of(path);
  away_.erase(path);
}

void ServerWatch::forget(const std::string& path) {
  tried_.erase(path);
  away_.erase(path);
}

void ServerWatch::missed(const std::string& path, bool again) {
  away_[path] = again ? Clock::now() + longest_pause : Clock::time_point::max();
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
  for (const auto& [path, again] : away_) {
    const auto now = identity_of(path);
    if (now == Identity{} || (now == tried_[path] && Clock::now() < again)) continue;
    tried_[path] = now;
    found.push_back(path);
  }
  for (const auto& path : found) away_.erase(path);
  pause_ = std::min(2 * pause_, longest_pause);
  if (!away_.empty()) look_later();
  for (const auto& path : found) back_(path);
}

} // namespace smartio
