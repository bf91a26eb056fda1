// The controller's life: reset, enable, stop.
#include "driver.hpp"

#include "result.hpp"

#include <linux/pci_regs.h>
#include <thread>

namespace nvme {
namespace {

using namespace std::chrono_literals;
using smartio::Errc;
using smartio::fail;
using smartio::fail_errno;
using smartio::Result;
using Clock = std::chrono::steady_clock;

constexpr unsigned admin_entries = 32;

} // namespace

Result<std::unique_ptr<Driver>> Driver::start(smartio::Device device, bool interrupts, Patience patience) {
  auto bar = TRY(device.map_bar(0));
  auto driver = std::unique_ptr<Driver>(new Driver(std::move(device), std::move(bar), patience));
  TRY(driver->set_bus_master(true));
  TRY(driver->reset());
  TRY(driver->enable());
  TRY(driver->identify());
  TRY(driver->make_io_queue(interrupts));
  return driver;
}

Driver::~Driver() {
  if (enabled_) stop();
}

Result<std::uint32_t> Driver::read32(std::size_t reg) const {
  return static_cast<std::uint32_t>(TRY(bar_.read(reg, 4)));
}

// 64-bit registers may be accessed as two dwords (3.1); not every server of a device takes 8 bytes at once.
Result<void> Driver::write64(std::size_t reg, std::uint64_t value) const {
  TRY(bar_.write(reg, 4, value & 0xffffffff));
  return bar_.write(reg + 4, 4, value >> 32);
}

Result<void> Driver::set_bus_master(bool on) const {
  const std::uint32_t before = TRY(device_.read_config(PCI_COMMAND, 2));
  const std::uint32_t after =
      on ? before | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : before & ~std::uint32_t{PCI_COMMAND_MASTER};
  return device_.write_config(PCI_COMMAND, 2, after);
}

Result<void> Driver::reset() {
  const std::uint64_t low = TRY(read32(reg_cap));
  const std::uint64_t high = TRY(read32(reg_cap + 4));
  const std::uint32_t version = TRY(read32(reg_vs));
  const std::uint32_t configuration = TRY(read32(reg_cc));
  capabilities_ = high << 32 | low;
  if (capabilities_ == UINT64_MAX || version == UINT32_MAX)
    return fail(Errc::revoked, "The controller's registers read as all ones: the device is gone");
  if (cap_mpsmin(capabilities_) != 0 || !cap_css_nvm(capabilities_) || cap_mqes(capabilities_) < 1)
    return fail(Errc::bad_request, "The controller cannot do 4 KiB pages or the NVM command set (CAP {:#x})",
                capabilities_);
  identity_.version = fmt::format("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff);
  // CC.EN is not cleared before CSTS.RDY followed its setting (3.1.5), unless it never does.
  if ((configuration & cc_enable) != 0) {
    [[maybe_unused]] const bool was_ready = await_ready(true).has_value();
    TRY(bar_.write(reg_cc, 4, configuration & ~cc_enable));
  }
  return await_ready(false);
}

Result<void> Driver::await_ready(bool ready) const {
  const auto limit = std::max(1U, cap_to(capabilities_)) * 500ms;
  const auto began = Clock::now();
  for (;;) {
    const std::uint32_t status = TRY(read32(reg_csts));
    if (status == UINT32_MAX) return fail(Errc::revoked, "The device was taken back");
    if (((status & csts_ready) != 0) == ready) return {};
    if (ready && (status & csts_fatal) != 0) return fail_errno(EIO, "the controller reports a fatal error (CSTS.CFS)");
    if (Clock::now() - began > limit)
      return fail(Errc::timed_out, "The controller did not become {} within {} ms (CAP.TO)", ready ? "ready" : "idle",
                  limit.count());
    std::this_thread::sleep_for(1ms);
  }
}

Result<void> Driver::enable() {
  const unsigned entries = std::min(admin_entries, cap_mqes(capabilities_) + 1);
  admin_ = TRY(Queue::make(device_, bar_, 0, entries, cap_dstrd(capabilities_)));
  TRY(bar_.write(reg_aqa, 4, (entries - 1) << 16 | (entries - 1)));
  TRY(write64(reg_asq, admin_->submission_iova()));
  TRY(write64(reg_acq, admin_->completion_iova()));
  enabled_ = true; // from here on the controller may reach memory
  TRY(bar_.write(reg_cc, 4, cc_entry_sizes | cc_enable));
  return await_ready(true);
}

// Queues first (7.6.1), then CC.EN, whose effect is what counts: a disabled controller has nothing under way.
void Driver::stop() {
  if (io_) {
    [[maybe_unused]] const bool deleted = admin({.opcode = admin_delete_sq, .cdw10 = 1}, "delete a queue") &&
                                          admin({.opcode = admin_delete_cq, .cdw10 = 1}, "delete a queue");
  }
  [[maybe_unused]] const bool stopped = bar_.write(reg_cc, 4, cc_entry_sizes) && await_ready(false);
  // The memory goes next, and a controller that did not stop is one that must not reach it any more.
  [[maybe_unused]] const bool cut_off = set_bus_master(false).has_value();
}

} // namespace nvme
