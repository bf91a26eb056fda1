#include "pci.hpp"

#include "capabilities.hpp"
#include "child.hpp"
#include "fd.hpp"
#include "filter.hpp"
#include "result.hpp"
#include "text.hpp"
#include "vpd.hpp"

#include <algorithm>
#include <span>
#include <unistd.h>

namespace smartio::vfio::host {
namespace {

constexpr std::chrono::milliseconds vpd_time{2000}; ///< some hundred bytes, four at a time, a millisecond or so each
constexpr std::size_t largest_config = 4096, plain_config = 256, least_config = 64;

/// The attribute as a number of T's size; nullopt if it is not one.
template <class T> std::optional<T> identity(const std::string& folder, const char* name) {
  const auto value = read_number(folder + name, 16);
  if (!value || *value > static_cast<T>(-1)) return std::nullopt;
  return static_cast<T>(*value);
}

std::uint32_t counter(const std::string& path) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(read_number(path).value_or(0), UINT32_MAX));
}

/// A link to another function, such as physfn.
std::optional<Bdf> linked_function(const std::string& path) {
  const auto name = link_name(path);
  return name ? parse_bdf(*name) : std::nullopt;
}

/// `resource`: a line "START END FLAGS" per BAR, then ROM and bridge windows.
std::array<std::uint64_t, 6> read_bars(const std::string& folder) {
  std::array<std::uint64_t, 6> sizes{};
  const auto text = read_text(folder + "resource").value_or("");
  std::size_t bar = 0;
  for (const auto line : lines_of(text)) {
    if (bar == sizes.size()) break;
    const auto words = words_of(line);
    const auto number = [&words](std::size_t at) {
      const bool given = words.size() > at && words[at].starts_with("0x");
      return given ? parse_number(words[at].substr(2), 16).value_or(0) : 0;
    };
    const auto start = number(0), end = number(1);
    if (end > start) sizes[bar] = end - start + 1;
    ++bar;
  }
  return sizes;
}

std::vector<std::string> read_reset_methods(const std::string& folder) {
  const auto text = read_text(folder + "reset_method");
  if (!text) return exists(folder + "reset") ? std::vector<std::string>{"reset"} : std::vector<std::string>{};
  const auto words = words_of(*text);
  return {words.begin(), words.end()};
}

void read_group(const Root& root, const std::string& folder, Function& function) {
  const auto name = link_name(folder + "iommu_group");
  const auto number = name ? parse_number(*name, 10, UINT32_MAX) : std::nullopt;
  if (!number) return;
  function.iommu_group = static_cast<std::uint32_t>(*number);
  for (const auto& member : list(fmt::format("{}/kernel/iommu_groups/{}/devices", root.sys, *number)))
    if (const auto bdf = parse_bdf(member)) function.group_members.push_back(*bdf);
  std::ranges::sort(function.group_members);
}

/// Table Size of the MSI-X capability (PCI Express Base 7.7.2.2).
std::optional<std::uint32_t> count_vectors(std::span<const std::byte> config) {
  const auto msix = find_capability(config, capability::msi_x);
  if (!msix) return std::nullopt;
  return (config_number(config, msix->offset + 2UL, 2) & 0x7ff) + 1;
}

} // namespace

std::string folder_of(const Root& root, const Bdf& bdf) {
  return root.sys + "/bus/pci/devices/" + to_string(bdf) + '/';
}

std::string short_name(const Bdf& bdf) { return bdf.domain == 0 ? to_string(bdf).substr(5) : to_string(bdf); }

Result<std::vector<Bdf>> list_functions(const Root& root) {
  const auto folder = root.sys + "/bus/pci/devices";
  if (!exists(folder)) return fail(Errc::no_such_device, "There is no {}: this kernel has no PCI.", folder);
  std::vector<Bdf> functions;
  for (const auto& name : list(folder))
    if (const auto bdf = parse_bdf(name)) functions.push_back(*bdf);
  std::ranges::sort(functions);
  return functions;
}

Result<Function> read_function(const Root& root, const Bdf& bdf) {
  const auto folder = folder_of(root, bdf);
  if (!exists(folder)) return fail(Errc::no_such_device, "There is no PCI function {}.", to_string(bdf));
  const auto vendor = identity<std::uint16_t>(folder, "vendor"), device = identity<std::uint16_t>(folder, "device");
  const auto class_code = identity<std::uint32_t>(folder, "class");
  if (!vendor || !device || !class_code) return fail(Errc::bad_request, "{} does not say what the device is.", folder);
  Function function{.bdf = bdf, .vendor = *vendor, .device = *device, .class_code = *class_code};
  function.subsystem_vendor = identity<std::uint16_t>(folder, "subsystem_vendor").value_or(0);
  function.subsystem_device = identity<std::uint16_t>(folder, "subsystem_device").value_or(0);
  function.revision = identity<std::uint8_t>(folder, "revision").value_or(0);
  function.driver = link_name(folder + "driver");
  read_group(root, folder, function);
  function.reset_methods = read_reset_methods(folder);
  function.bar_size = read_bars(folder);
  function.boot_vga = read_number(folder + "boot_vga") == 1;
  function.physical_function = linked_function(folder + "physfn");
  function.virtual_functions = counter(folder + "sriov_numvfs");
  if (const auto config = read_config(root, bdf)) {
    function.msix_vectors = count_vectors(*config);
    function.serial_number = device_serial_number(*config);
  }
  return function;
}

std::optional<std::string> nvme_serial(const Root& root, const Bdf& bdf) {
  const auto folder = folder_of(root, bdf) + "nvme/";
  for (const auto& controller : list(folder)) {
    // Before the controller was asked the file says "(efault)" (drivers/nvme/host/sysfs.c).
    if (read_text(folder + controller + "/state") != "live") continue;
    auto serial = read_text(folder + controller + "/serial").value_or("");
    std::erase_if(serial, [](char c) { return c <= ' ' || c > '~'; });
    if (!serial.empty()) return serial;
  }
  return std::nullopt;
}

bool has_vpd(const Root& root, const Bdf& bdf) { return exists(folder_of(root, bdf) + "vpd"); }

std::optional<std::string> vpd_serial(const Root& root, const Bdf& bdf) {
  const auto vpd = read_bytes_in_child(folder_of(root, bdf) + "vpd", largest_vpd, vpd_time);
  return vpd ? vpd_serial_number(*vpd) : std::nullopt;
}

Result<std::vector<std::byte>> read_config(const Root& root, const Bdf& bdf) {
  const auto path = folder_of(root, bdf) + "config";
  const auto fd = TRY(open_file(path));
  std::vector<std::byte> config(largest_config);
  std::size_t size = 0;
  while (size < config.size()) {
    const auto got = ::pread(fd.get(), config.data() + size, config.size() - size, static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "read " + path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size < least_config) return fail(Errc::bad_request, "{} is shorter than {} bytes.", path, least_config);
  config.resize(size < plain_config ? least_config : size < largest_config ? plain_config : largest_config);
  return config;
}

Result<Bdf> find_function(const Root& root, std::string_view text) {
  if (text.empty()) return fail(Errc::bad_request, "The address of a PCI function is missing.");
  const auto filter = TRY(Filter::parse("", text));
  auto found = TRY(list_functions(root));
  std::erase_if(found, [&filter](const Bdf& bdf) { return !filter.matches_address(bdf); });
  if (found.empty()) return fail(Errc::no_such_device, "There is no PCI function {}.", printable(std::string(text)));
  if (found.size() == 1) return found.front();
  std::string names;
  for (const auto& bdf : found) names += ' ' + to_string(bdf);
  return fail(Errc::bad_request, "{} is not one PCI function but {}:{}.", printable(std::string(text)), found.size(),
              names);
}

} // namespace smartio::vfio::host
