// A device lent over a path: both nodes' ends of a session, joined by plain memory.
#pragma once

#include "catch.hpp"
#include "memory_path.hpp"
#include "remote_client.hpp"
#include "remote_device.hpp"
#include "test_device.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <chrono>
#include <cstring>

namespace smartio::testing {

using core::DeviceMessage;
using ::testing::TestDevice;

inline constexpr std::uint64_t page = ::testing::TestDevice::page;
inline constexpr core::LoanId loan{DeviceId{0x80000}, 1};

struct RemoteSession {
  explicit RemoteSession(bool mappable = false) {
    if (mappable) b->make_mappable();
    device->on_lost([this] { lost = true; });
    client->admitted(lent);
  }
  ~RemoteSession() {
    device->close();
    client->close();
  }

  bool reach(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      if (std::chrono::steady_clock::now() >= end) return false;
      if (!deliver()) io.run_one_for(std::chrono::milliseconds(5));
    }
    return true;
  }
  /// False: there was nothing.
  bool deliver() {
    const bool any = !to_lender.empty() || !to_borrower.empty();
    for (const auto& bytes : std::exchange(to_lender, {})) client->received(core::decode_device_message(bytes).value());
    for (auto& message : std::exchange(to_borrower, {})) device->received(std::move(message));
    return any;
  }
  vfio::Reply ask(vfio::Request request) {
    const auto reply = std::make_shared<std::optional<vfio::Reply>>(); // may outlive the question
    device->submit(std::move(request), [reply](vfio::Reply answer) { reply->emplace(std::move(answer)); });
    REQUIRE(reach([&] { return reply->has_value(); }));
    return std::move(**reply);
  }
  std::uint64_t read(std::uint64_t offset) {
    const auto data = std::get<vfio::Data>(ask(vfio::RegionRead{0, offset, 8}).value()).bytes;
    std::uint64_t value = 0;
    std::memcpy(&value, data.data(), sizeof value);
    return value;
  }
  vfio::Reply map(std::uint64_t iova, const Fd& memory, std::uint64_t offset, std::uint64_t size) {
    return ask(vfio::DmaMap{Iova{iova}, size, Access::read_write, memory.duplicate().value(), offset});
  }
  vfio::RegionInfo region(std::uint32_t index) {
    return std::get<vfio::RegionInfo>(ask(vfio::GetRegionInfo{index}).value());
  }
  Fd connect(unsigned vector) {
    auto event = make_eventfd().value();
    vfio::SetIrqs irqs{vfio::irq_data_eventfd | vfio::irq_action_trigger, vfio::msix, vector, 1, {}, {}};
    irqs.eventfds.push_back(event.duplicate().value());
    REQUIRE(ask(std::move(irqs)));
    return event;
  }

  /// Whether the borrower's host reaches anything at that offset of the lender's window.
  bool reached(std::uint64_t offset) const { return read_through(*a, offset).has_value(); }

  /// Memory at the borrower that the device writes 0x55 to; that has not arrived yet.
  Mapping write_under_way() const {
    const auto memory = make_memfd("memory", page).value();
    const auto offset = a->reserve(page).value();
    a->device()->submit(vfio::DmaMap{a->inbound(offset), page, Access::read_write, memory.duplicate().value(), 0},
                        [](const vfio::Reply& reply) { REQUIRE(reply.has_value()); });
    b->hold_writes();
    write_through(*b, offset, 0x55);
    return Mapping::map(memory.get(), 0, page).value();
  }

  boost::asio::io_context io;
  const boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work = make_work_guard(io);
  MemoryPaths paths{io};
  std::shared_ptr<MemoryPath> a = paths.a, b = paths.b; ///< the borrower's end, the lender's
  std::shared_ptr<TestDevice> lent = std::make_shared<TestDevice>();
  std::shared_ptr<Exposures> lenders = std::make_shared<Exposures>(b); ///< of the lender's end
  std::vector<std::string> to_lender;
  std::vector<DeviceMessage> to_borrower;
  bool lost = false;
  std::shared_ptr<RemoteDevice> device = std::make_shared<RemoteDevice>(
      io, loan, 1, core::DevicePath{}, std::make_shared<Exposures>(a), std::chrono::milliseconds(500),
      [this](const DeviceMessage& message) { to_lender.push_back(core::encode(message)); });
  std::shared_ptr<RemoteClient> client =
      std::make_shared<RemoteClient>(io, loan, 1, core::DevicePath{}, lenders, std::make_shared<RegisterWindows>(),
                                     [this](const DeviceMessage& message) { to_borrower.push_back(message); });
};

} // namespace smartio::testing
