// Which names of devices' servers lead to one: by symbolic and hard links, mounts, "a/../a". Names are kept as they
// were given, and compared by what the file system says at the time.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <smartio/types.hpp>
#include <string>

namespace smartio {

/// The socket that a path leads to, the same by whatever path: device, inode, and when that was made, since its number
/// is used again. "": there is none. Blocks for the file system.
std::string socket_at(const std::string& path);

/// Of the devices of one node. Single-threaded.
class ServerNames {
public:
  void look(DeviceId id, const std::string& path); ///< where that name of its server leads now
  void forget(DeviceId id);

  /// The device has its server open for as long as the result lives, which may be longer than this.
  std::shared_ptr<void> hold(DeviceId id);

  /// Another device with the server that `id` was seen to lead to: one that has it open or, with `any`, one whose name
  /// leads there now. A new server at an old name is found by the name, without links; one that is open by what was
  /// connected to, though nothing may lead there any more.
  std::optional<DeviceId> other(DeviceId id, bool any) const;

private:
  struct Name {
    std::string path, socket, whole; ///< as given; socket_at() of it; without links, absolute
  };
  std::map<DeviceId, Name> names_;
  std::map<std::string, std::set<DeviceId>> seen_; ///< by `socket` and by `whole`, which begins with '/'
  std::shared_ptr<std::multiset<DeviceId>> open_ = std::make_shared<std::multiset<DeviceId>>();
};

} // namespace smartio
