// Telling systemd (sd_notify(3): a datagram to $NOTIFY_SOCKET).
#pragma once

namespace smartio {

/// `state` is "READY=1" or "STOPPING=1". Does nothing where nobody asked to be told.
void notify_systemd(const char* state);

} // namespace smartio
