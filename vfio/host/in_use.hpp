// Who on this host uses a PCI function: asked of the kernel, told in sentences.
#pragma once

#include "pci.hpp"
#include "system.hpp"

#include <string>
#include <vector>

namespace smartio::vfio::host {

/// One phrase per use, such as "/dev/nvme0n1p1 is mounted on /data", "eth0 is up and has the default route",
/// "/dev/snd/pcmC0D0p is open in process 1234 (pulseaudio)"; empty when nothing uses the function. What cannot be
/// checked counts as a use. Reads all of /proc; exclusive opens may block for a device that does not answer.
/// docs/in-use.md has the list of what is looked at, and of what is not seen.
std::vector<std::string> uses_of(const Root& root, const Function& function, const System& system = System::real());

} // namespace smartio::vfio::host
