// What the descriptors are that the kernel's VFIO gives out, and that travel in messages.
#pragma once

#include <string_view>

namespace smartio::vfio {

/// `device`: a VFIO device's own: whoever has it can do everything to the function, and not only to one BAR. `dma_buf`:
/// memory, or registers, and nothing else. `other`: regular files. `unknown`: all else, which may be a device.
enum class DescriptorKind { device, dma_buf, other, unknown };
DescriptorKind kind_of_descriptor(int fd);
bool is_device_name(std::string_view name); ///< whether /proc names a VFIO device's descriptor so

} // namespace smartio::vfio
