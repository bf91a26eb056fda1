// The kernel's side of binding drivers, played in a Tree: what a write into one of its files does, and how it can fail.
#pragma once

#include "fixture_tree.hpp"
#include "result.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace testing {

class DriverKernel {
public:
  explicit DriverKernel(const Tree& tree) : tree_(tree) {
    tree.file("sys/bus/pci/drivers/vfio-pci/bind", "");
    tree.file("sys/bus/pci/drivers_probe", "");
    tree.folder("state");
  }

  /// Asked before each write, with the end of its path ("driver/unbind"); what it returns is what the write says, and
  /// then nothing is done.
  std::function<std::optional<smartio::Error>(const std::string& file, const std::string& text)> fault;
  std::vector<std::string> written; ///< "driver_override=vfio-pci" ...

  host::System system() {
    auto system = free_system();
    system.write = [this](const std::string& path, const std::string& text, std::chrono::milliseconds) {
      return write(path.substr(tree_.path().size() + 1), text);
    };
    system.read = [this](const std::string& path, std::chrono::milliseconds) -> smartio::Result<std::string> {
      if (fault)
        if (auto error = fault("read", "")) return std::unexpected(std::move(*error));
      return host::read_text(path).value_or("");
    };
    system.patience = std::chrono::milliseconds(50);
    return system;
  }

  std::string driver(const std::string& bdf) const {
    return host::link_name(tree_.at(devices(bdf) + "driver")).value_or("");
  }
  std::string driver_override(const std::string& bdf) const {
    return host::read_text(tree_.at(devices(bdf) + "driver_override")).value_or("");
  }
  void let_go(const std::string& bdf) { tree_.remove(devices(bdf) + "driver"); }

private:
  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

  smartio::Result<void> write(const std::string& path, const std::string& text) {
    const auto value = first_line(text);
    const bool of_driver = path.starts_with("sys/bus/pci/drivers/");
    const auto name = of_driver                                  ? path.substr(20)
                      : path.starts_with("sys/bus/pci/devices/") ? path.substr(33)
                                                                 : path.substr(12);
    written.push_back(name + '=' + value);
    if (fault)
      if (auto error = fault(name, value)) return std::unexpected(std::move(*error));
    if (name == "drivers_probe") return bind(value, "");
    if (of_driver) return bind(value, name.substr(0, name.find('/')));
    const auto bdf = path.substr(20, 12);
    if (name == "driver_override") return tree_.file(path, (value.empty() ? "(null)" : value) + '\n'), Done{};
    return unbind(bdf, value);
  }

  using Done = smartio::Result<void>;

  Done unbind(const std::string& bdf, const std::string& value) {
    if (value != bdf || driver(bdf).empty()) return smartio::fail_errno(ENODEV, "unbind");
    let_go(bdf);
    return {};
  }

  /// With `wanted` "", whichever driver would take it: here only the one it is to be overridden by.
  Done bind(const std::string& bdf, const std::string& wanted) {
    const auto forced = driver_override(bdf);
    const auto name = wanted.empty() ? forced : wanted;
    const bool suits = forced == "(null)" ? name != "vfio-pci" && name != "(null)" : forced == name;
    if (!suits || !driver(bdf).empty()) return smartio::fail_errno(ENODEV, "bind");
    tree_.link(devices(bdf) + "driver", "sys/bus/pci/drivers/" + name);
    return {};
  }

  const Tree& tree_;
};

} // namespace testing
