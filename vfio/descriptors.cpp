#include "descriptors.hpp"

#include <array>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

namespace smartio::vfio {

// Documentation/driver-api/vfio.rst: a group's device descriptor is an anonymous inode, a cdev a node in this folder.
bool is_device_name(std::string_view name) {
  return name.starts_with("anon_inode:[vfio-device") || name.starts_with("/dev/vfio/");
}

DescriptorKind kind_of_descriptor(int fd) {
  struct stat file {};
  if (::fstat(fd, &file) != 0) return DescriptorKind::unknown;
  if (S_ISREG(file.st_mode)) return DescriptorKind::other; // with any name, in another mount namespace
  std::array<char, 64> target{};
  const auto link = "/proc/self/fd/" + std::to_string(fd);
  const auto size = ::readlink(link.c_str(), target.data(), target.size());
  if (size < 0) return DescriptorKind::unknown;
  const std::string_view name(target.data(), static_cast<std::size_t>(size));
  if (is_device_name(name)) return DescriptorKind::device;
  if (name.starts_with("/dmabuf:")) return DescriptorKind::dma_buf; // drivers/dma-buf/dma-buf.c, dmabuffs_dname
  return DescriptorKind::unknown; // a device's, by another name: a cdev seen from another mount namespace, say
}

} // namespace smartio::vfio
