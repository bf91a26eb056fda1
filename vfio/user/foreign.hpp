// Descriptors that another process sent, looked at before anybody asks them anything. A look at one (fstat) and its
// close may wait for as long as its sender likes: a file system in user space, a socket that lingers, a serial line.
#pragma once

#include "fd.hpp"

#include <string_view>

namespace smartio::vfio::user {

/// What cannot be found in this process's mounts: memory and devices may come from another mount namespace, but a
/// client has no reason to send any other file of its own.
enum class Unknown { refused, passed };

/// `received` itself if it can be looked at and closed without waiting. Else it is closed on a thread that may wait,
/// and the end of a pipe stands in its place, which is refused wherever a descriptor is of use.
Fd harmless(Fd received, Unknown unknown);

/// The type of the file system with that id in the text of /proc/PID/mountinfo; empty: it is not there.
std::string_view mounted_type(std::string_view mountinfo, std::string_view id);

} // namespace smartio::vfio::user
