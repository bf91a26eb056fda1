// A device lent over a bridge: both nodes' ends of a session, joined by the simulated bridge.
#pragma once

#include "ntb_nodes.hpp"
#include "remote_client.hpp"
#include "remote_device.hpp"
#include "test_device.hpp"

#include <cstring>

namespace smartio::testing {

using core::DeviceMessage;
using fabric::ntb::Peer;
using ::testing::TestDevice;

inline constexpr std::uint64_t page = ::testing::TestDevice::page;
inline constexpr core::LoanId loan{DeviceId{0x80000}, 1};

/// The simulated bridge's aperture cannot be mapped for another device; a file stands in for it.
struct MappableAperture final : vfio::Device {
  explicit MappableAperture(std::shared_ptr<vfio::Device> end) : bridge(std::move(end)) {}
  void submit(vfio::Request request, vfio::Completion done) override {
    const auto* info = std::get_if<vfio::GetRegionInfo>(&request);
    if (info == nullptr || info->index != Peer::aperture_region)
      return bridge->submit(std::move(request), std::move(done));
    bridge->submit(std::move(request), [this, done = std::move(done)](vfio::Reply reply) mutable {
      auto& region = std::get<vfio::RegionInfo>(reply.value());
      region.areas = {{0, region.size}};
      region.fd = file.duplicate().value();
      region.fd_offset = fd_offset;
      done(std::move(reply));
    });
  }
  void on_lost(std::move_only_function<void()>) override {}
  std::shared_ptr<vfio::Device> bridge;
  static constexpr std::uint64_t fd_offset = 4 * page; ///< where the aperture is in its descriptor
  Fd file = make_memfd("aperture", fd_offset + NtbHost::window_bytes).value();
};

struct RemoteSession {
  explicit RemoteSession(bool mappable = false) {
    if (mappable) pair.b.device = std::make_shared<MappableAperture>(pair.b.device);
    for (auto* peer : {&a, &b})
      Peer::open(
          io, (peer == &a ? pair.a : pair.b).device,
          {.node = NodeId(peer == &a ? 4U : 8U), .silence = std::chrono::seconds(1)}, [] {},
          [peer](auto opened) { *peer = std::move(opened).value(); });
    REQUIRE(reach([this] { return a && b && a->state().up && b->state().up; }));
    lenders = std::make_shared<Exposures>(b);
    device = std::make_shared<RemoteDevice>(
        io, loan, 1, core::DevicePath{}, std::make_shared<Exposures>(a), std::chrono::milliseconds(500),
        [this](const DeviceMessage& message) { to_lender.push_back(core::encode(message)); });
    client =
        std::make_shared<RemoteClient>(io, loan, 1, core::DevicePath{}, lenders, std::make_shared<RegisterWindows>(),
                                       [this](const DeviceMessage& message) { to_borrower.push_back(message); });
    device->on_lost([this] { lost = true; });
    client->admitted(lent);
  }
  ~RemoteSession() {
    device->close();
    client->close();
  }

  bool reach(const std::function<bool()>& condition) {
    for (int i = 0; i < 300; ++i) {
      if (condition()) return true;
      deliver();
      io.run_for(std::chrono::milliseconds(5));
    }
    return false;
  }
  void deliver() {
    for (const auto& bytes : std::exchange(to_lender, {})) client->received(core::decode_device_message(bytes).value());
    for (auto& message : std::exchange(to_borrower, {})) device->received(std::move(message));
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

  /// Memory at the borrower that the device writes 0x55 to; that is held in the bridge.
  Mapping write_under_way() {
    const auto memory = make_memfd("memory", page).value();
    const auto offset = a->reserve(page).value();
    a->device()->submit(vfio::DmaMap{a->inbound(offset), page, Access::read_write, memory.duplicate().value(), 0},
                        [](const vfio::Reply& reply) { REQUIRE(reply.has_value()); });
    pair.bridge.set_faults({.writes = sim::ntb::Passing::held});
    pair.b.write(Peer::aperture_region, offset, 4, 0x55);
    return Mapping::map(memory.get(), 0, page).value();
  }

  boost::asio::io_context io;
  NtbPair pair{"gen4", false};
  std::shared_ptr<WatchedDevice> bridge = watch(pair.a),
                                 lenders_bridge = watch(pair.b); ///< the borrower's; the lender's
  std::shared_ptr<Peer> a, b;
  std::shared_ptr<TestDevice> lent = std::make_shared<TestDevice>();
  std::shared_ptr<Exposures> lenders; ///< of the lender's end
  std::shared_ptr<RemoteDevice> device;
  std::shared_ptr<RemoteClient> client;
  std::vector<std::string> to_lender;
  std::vector<DeviceMessage> to_borrower;
  bool lost = false;
};

} // namespace smartio::testing
