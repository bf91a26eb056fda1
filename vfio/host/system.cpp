#include "system.hpp"

#include "child.hpp"
#include "fd.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace smartio::vfio::host {
namespace {

constexpr std::chrono::seconds module_time{30};

int open_exclusively(const std::string& node) {
  // O_NONBLOCK: a drive without a medium must not wait for one.
  const Fd fd(::open(node.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
  return fd ? 0 : errno;
}

bool has_ipv4_address(const std::string& interface) {
  ifreq request{};
  if (interface.empty() || interface.size() >= sizeof request.ifr_name) return false;
  std::memcpy(request.ifr_name, interface.data(), interface.size());
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return socket && ::ioctl(socket.get(), SIOCGIFADDR, &request) == 0;
}

void load_module(const char* module) { run_in_child("/sbin/modprobe", "-q", module, module_time); }

} // namespace

System System::real() {
  return {.write = write_in_child,
          .read = read_in_child,
          .load_module = host::load_module,
          .open_exclusively = host::open_exclusively,
          .has_ipv4_address = host::has_ipv4_address,
          .ask_netlink = host::ask_netlink};
}

} // namespace smartio::vfio::host
