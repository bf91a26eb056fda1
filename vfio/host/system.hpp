// What this folder asks of the kernel beyond reading files: the seam that tests replace.
#pragma once

#include "netlink.hpp"

#include <smartio/error.hpp>

#include <chrono>
#include <functional>
#include <string>

namespace smartio::vfio::host {

struct System {
  /// Writes `text` into a sysfs attribute with one write. Such writes run drivers and can block for ever;
  /// Errc::timed_out after `patience`, and then the write is still under way.
  std::function<Result<void>(const std::string& path, const std::string& text, std::chrono::milliseconds patience)>
      write;
  /// The text of an attribute, without the blanks at its end, with the same limit: some wait for the device's lock.
  std::function<Result<std::string>(const std::string& path, std::chrono::milliseconds patience)> read;
  /// Loads a kernel module; returns when it is loaded, could not be, or after 30 s. Whether it is, sysfs knows.
  std::function<void(const char* module)> load_module;
  /// Opens the block device and closes it again; an errno, 0 if the kernel let nobody but us have it (O_EXCL).
  std::function<int(const std::string& node)> open_exclusively;
  /// Whether the network interface has an IPv4 address.
  std::function<bool(const std::string& interface)> has_ipv4_address;
  std::function<std::string(const Question&)> ask_netlink; ///< host::ask_netlink
  std::chrono::milliseconds patience{5000};                ///< for each step of binding a driver

  static System real();
};

} // namespace smartio::vfio::host
