// The process at the other end of a UNIX socket, to be ended if need be.
#pragma once

namespace smartio::vfio::user {

/// SIGKILL for the process that connected, never for another that has its number by now. Where the kernel cannot say
/// which it was (`asks_socket`: by SO_PEERPIDFD, since Linux 6.5): for the one that has its number, if that has a VFIO
/// device open or mapped.
void kill_peer(int socket, bool asks_socket = true);

} // namespace smartio::vfio::user
