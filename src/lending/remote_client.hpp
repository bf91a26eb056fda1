// A client of a loan on another host, as the lender serves it: what it asks for by message is done to the lent device,
// whose registers are exposed in this host's window of the path, and which reaches the client's memory through the
// aperture.
#pragma once

#include "device.hpp"
#include "device_message.hpp"
#include "exposures.hpp"
#include "register_windows.hpp"
#include "user/view.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <deque>
#include <map>
#include <memory>

namespace smartio {

/// Single-threaded.
class RemoteClient final : public std::enable_shared_from_this<RemoteClient> {
public:
  using Send = std::function<void(const core::DeviceMessage&)>;

  RemoteClient(boost::asio::io_context& io, core::LoanId loan, std::uint32_t session, core::DevicePath device_path,
               std::shared_ptr<Exposures> exposures, std::shared_ptr<RegisterWindows> peers, Send send);

  /// What the client may use: the lent device under the rules of lending. Commands that came before are done now.
  void admitted(std::shared_ptr<vfio::Device> device);
  /// Hostile input: a malformed command is answered with an errno, too many at once end the session.
  void received(core::DeviceMessage command);
  /// The session is over: its registers are withdrawn from the path, and the client is told.
  void close();

private:
  struct Export {
    std::uint64_t offset; ///< of the region's offset 0 in the path's window
    vfio::RegionArea area;
  };
  /// An interrupt of the device on its way to the client.
  struct Relay {
    boost::asio::posix::stream_descriptor event;
    std::uint8_t doorbell;
  };
  using Vector = std::pair<std::uint32_t, std::uint32_t>; ///< interrupt index and vector
  void next();
  void answer(const core::DeviceMessage& command, vfio::Reply reply);
  void answer_unmap(core::DeviceMessage command, vfio::Reply reply);
  std::expected<vfio::Request, int> decode(const core::DeviceMessage& command);
  std::expected<std::vector<Fd>, int> descriptors(const core::DeviceMessage& command) const;
  int place(vfio::Request& request, const core::DeviceMessage& command);
  void expose(core::DeviceMessage command, std::uint32_t region, vfio::RegionInfo info);
  void expose_at(std::optional<std::uint64_t> offset, core::DeviceMessage command, std::uint32_t region,
                 vfio::RegionInfo info);
  void answer_region(const core::DeviceMessage& command, vfio::RegionInfo info, bool window);
  int relay(vfio::SetIrqs& irqs, const core::DeviceMessage& command);
  void watch(Vector vector);
  void deliver(Vector vector);
  void withdraw(const Export& exported);

  boost::asio::io_context& io_;
  core::LoanId loan_;
  std::uint32_t session_;
  core::DevicePath device_path_;
  std::shared_ptr<Exposures> exposures_;
  std::shared_ptr<fabric::Path> path_;
  std::shared_ptr<RegisterWindows> peers_;
  Send send_;
  std::shared_ptr<vfio::Device> device_;
  std::shared_ptr<const vfio::user::DeviceView> view_;
  std::deque<core::DeviceMessage> commands_;
  bool busy_ = false, over_ = false;
  std::map<std::uint32_t, Export> exports_; ///< by region
  std::shared_ptr<RegisterWindows::Windows> windows_ = std::make_shared<RegisterWindows::Windows>();
  std::map<Vector, std::shared_ptr<Relay>> relays_;
};

} // namespace smartio
