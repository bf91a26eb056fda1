#include "bar.hpp"
#include "device_core.hpp"
#include "interrupt.hpp"
#include "open_loan.hpp"
#include "window.hpp"

#include <cstring>
#include <linux/pci_regs.h>

namespace smartio {
namespace {

Result<void> check_config(const detail::DeviceCore& core, std::uint16_t offset, unsigned width) {
  const bool usual = width == 1 || width == 2 || width == 4;
  if (!usual || offset % width != 0 || !in_range(offset, width, core.description.config_size))
    return fail(Errc::bad_request, "The configuration space has no {} bytes at {:#x}", width, offset);
  return {};
}

Result<std::unique_ptr<detail::Window>> make_window(std::shared_ptr<detail::DeviceCore> core, const Memory& memory,
                                                    Access by_device, std::optional<Iova> chosen) {
  auto window = std::make_unique<detail::Window>(std::move(core));
  if (auto mapped = window->map(memory, by_device, chosen); !mapped) return std::unexpected(std::move(mapped).error());
  return window;
}

std::string lender_of(const detail::DeviceCore& core) {
  return core.loan ? fmt::format("node {}", to_string(core.identity.node)) : "opened straight";
}

} // namespace

const DeviceInfo& Device::info() const noexcept { return core_->identity; }
unsigned Device::vectors() const noexcept { return core_->description.vectors; }

std::size_t Device::bar_size(unsigned bar) const noexcept {
  const auto& sizes = core_->description.bar_size;
  return bar < sizes.size() ? sizes[bar] : 0;
}

Result<BarMapping> Device::map_bar(unsigned bar) const {
  if (bar_size(bar) == 0) return fail(Errc::bad_request, "The device has no BAR {}", bar);
  auto mapping = std::make_shared<detail::Bar>(core_, bar);
  if (auto mapped = mapping->map(); !mapped) return std::unexpected(std::move(mapped).error());
  return BarMapping(std::move(mapping));
}

Result<DmaWindow> Device::map_dma(const Memory& memory, Access by_device) const {
  return DmaWindow(TRY(make_window(core_, memory, by_device, std::nullopt)));
}

Result<DmaWindow> Device::map_dma_at(Iova iova, const Memory& memory, Access by_device) const {
  return DmaWindow(TRY(make_window(core_, memory, by_device, iova)));
}

Result<DmaWindow> Device::map_bar_of(const Device& target, unsigned bar, Access by_device) const {
  if (target.bar_size(bar) == 0) return fail(Errc::bad_request, "The target device has no BAR {}", bar);
  if (core_->identity.node != target.core_->identity.node)
    return fail(Errc::bad_request,
                "The two devices are not of one lender ({} and {}), so one cannot reach the registers of the other",
                lender_of(*core_), lender_of(*target.core_));
  auto window = std::make_unique<detail::Window>(core_);
  if (auto mapped = window->map_registers(target.core_, bar, by_device); !mapped)
    return std::unexpected(std::move(mapped).error());
  return DmaWindow(std::move(window));
}

Result<Interrupt> Device::interrupt(unsigned vector) const {
  auto made = std::make_unique<detail::Vector>(core_, vector);
  if (auto enabled = made->enable(); !enabled) return std::unexpected(std::move(enabled).error());
  return Interrupt(std::move(made));
}

Result<std::uint32_t> Device::read_config(std::uint16_t offset, unsigned width) const {
  if (auto allowed = check_config(*core_, offset, width); !allowed) return std::unexpected(allowed.error());
  const auto data = TRY(core_->request<vfio::Data>(vfio::RegionRead{vfio::config_region, offset, width},
                                                   fmt::format("read configuration space at {:#x}", offset)));
  if (data.bytes.size() != width)
    return fail(Errc::bad_request, "A read of the configuration space gave {} bytes", data.bytes.size());
  std::uint32_t value = 0;
  std::memcpy(&value, data.bytes.data(), width);
  return value;
}

Result<void> Device::write_config(std::uint16_t offset, unsigned width, std::uint32_t value) const {
  if (auto allowed = check_config(*core_, offset, width); !allowed) return allowed;
  vfio::RegionWrite write{vfio::config_region, offset, std::vector<std::byte>(width)};
  std::memcpy(write.data.data(), &value, width);
  TRY(core_->request<vfio::Done>(std::move(write), fmt::format("write configuration space at {:#x}", offset)));
  return {};
}

Result<void> Device::bus_master(bool on) const {
  const auto command = TRY(read_config(PCI_COMMAND, 2));
  return write_config(PCI_COMMAND, 2, on ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER);
}

Result<void> Device::reset() const {
  if (!core_->description.can_reset) return fail_errno(ENOTSUP, "reset the device");
  TRY(core_->request<vfio::Done>(vfio::Reset{}, "reset the device"));
  return {};
}

Result<void> Device::give_back() const { return core_->give_back(); }

int Device::revoked_fd() const noexcept { return core_->revoked_fd.get(); }

Result<std::optional<Ended>> Device::ended() const {
  if (!core_->revoked()) return std::nullopt;
  if (core_->left) return Ended{LoanEnd::returned, "this program gave it back"};
  if (!core_->loan) return Ended{LoanEnd::device_lost, "its server ended, or says that it failed"};
  return TRY(core_->loan->ended());
}

Result<Device> open_loan(const std::string& socket_path, std::chrono::milliseconds timeout,
                         std::shared_ptr<detail::Loan> loan) {
  return detail::DeviceCore::make_device(TRY(detail::DeviceCore::open(socket_path, timeout, std::move(loan))));
}

inline namespace v0 {

Result<Device> open_device(const std::string& address, std::chrono::milliseconds timeout) {
  constexpr std::string_view scheme = "vfio-user:";
  if (!address.starts_with(scheme) || address.size() == scheme.size())
    return fail(Errc::bad_request, "'{}' is not an address that can be opened straight: give vfio-user:PATH", address);
  return open_loan(address.substr(scheme.size()), timeout, nullptr);
}

} // namespace v0
} // namespace smartio
