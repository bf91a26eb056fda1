// A lent device on another host, as its borrower's node reaches it: requests travel over the peer connection, registers
// and memory through a path. Memory that is mapped for the device is exposed in this host's window of the path first;
// registers that the lender exposed are accessed through the aperture.
#pragma once

#include "device.hpp"
#include "device_message.hpp"
#include "exposures.hpp"

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>

namespace smartio {

/// For one client of a loan. Single-threaded. One request at a time: what it changes in the path's window and at the
/// lender belongs together.
class RemoteDevice final : public vfio::Device, public std::enable_shared_from_this<RemoteDevice> {
public:
  using Send = std::function<void(const core::DeviceMessage&)>;

  RemoteDevice(boost::asio::io_context& io, core::LoanId loan, std::uint32_t session, core::DevicePath device_path,
               std::shared_ptr<Exposures> exposures, std::chrono::milliseconds timeout, Send send,
               Exposures::ReserveRef reserve = {});
  ~RemoteDevice() override;

  /// A command without a reply within the timeout loses the device. ENOSPC: the path's window has no room left.
  void submit(vfio::Request request, vfio::Completion done) override;
  void on_lost(std::move_only_function<void()> lost) override { lost_ = std::move(lost); }

  void received(core::DeviceMessage message); ///< replies and interrupts; others lose the device
  void lose();                                ///< the lender, the peer connection or the path is gone
  /// Tells the lender; what is under way completes with ECANCELED. The device no longer reaches this host's memory.
  void close();

private:
  struct Waiting {
    vfio::Request request;
    vfio::Completion done;
  };
  struct Registers {
    std::uint64_t at; ///< of the region's offset 0 in the aperture
    vfio::RegionArea area;
  };
  void next();
  void finish(vfio::Reply reply);
  bool through_aperture(vfio::Request& request);
  void expose(vfio::DmaMap& map);
  void send_command(bool window, std::vector<std::uint8_t> doorbells = {});
  void send_interrupts(vfio::SetIrqs& irqs);
  vfio::Reply decode(const core::DeviceMessage& reply);
  vfio::RegionInfo with_aperture(std::uint32_t region, vfio::RegionInfo info, bool window);
  void unexpose(const vfio::DmaUnmap& range, std::move_only_function<void()> done);
  std::uint8_t connect_interrupt(std::uint32_t index, std::uint32_t vector, Fd event);
  void disconnect_interrupts(std::uint32_t index, std::uint64_t start = 0, std::uint64_t count = UINT32_MAX);

  core::LoanId loan_;
  std::uint32_t session_, number_ = 0;
  core::DevicePath device_path_;
  std::shared_ptr<fabric::Path> path_;
  std::chrono::milliseconds timeout_;
  Send send_;
  boost::asio::steady_timer deadline_;
  std::deque<Waiting> waiting_; ///< the first is under way if busy_
  bool busy_ = false, over_ = false;
  bool awaits_reply_ = false;   ///< the request under way is at the lender
  std::vector<std::byte> sent_; ///< payload of the command under way
  std::map<std::uint32_t, Registers> registers_;
  std::shared_ptr<Exposures> exposures_;
  Exposures::ClientRef client_;
  WindowTable<std::uint64_t> windows_; ///< where in the path's window
  struct Interrupt {
    Fd event;
    std::uint8_t doorbell;
  };
  std::map<std::pair<std::uint32_t, std::uint32_t>, Interrupt> interrupts_; ///< by index and vector
  std::move_only_function<void()> lost_;
};

} // namespace smartio
