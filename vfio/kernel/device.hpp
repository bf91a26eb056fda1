// A device that is bound to vfio-pci, driven through the kernel's VFIO. What blocks runs on a thread of its own.
#pragma once

#include "../device.hpp"
#include "function.hpp"
#include "worker.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <smartio/error.hpp>

namespace smartio::vfio::kernel {

struct Options {
  Bdf bdf;
  Interface interface = Interface::automatic;
  std::chrono::milliseconds timeout{4000}; ///< for each request, once it is its turn; for each GiB of a window
  std::optional<std::string> vf_token;     ///< a UUID, the same for a physical function and its virtual ones
};

/// Single-threaded: everything on the event loop's thread. The io_context must outlive it.
class Device final : public vfio::Device, public std::enable_shared_from_this<Device> {
public:
  using Opened = std::move_only_function<void(Result<std::shared_ptr<Device>>)>;

  /// Opens the function at `options.bdf`, with bus mastering off, reset, and without a window; `opened` is called once,
  /// later, within the timeout. Errors are sentences: Errc::no_such_device; Errc::wrong_state (not bound to vfio-pci,
  /// no IOMMU, group not whole, no such interface here); Errc::not_permitted (nodes not accessible, no interrupt
  /// remapping, VF token missing); Errc::bad_request (no VF token); Errc::timed_out; EBUSY (open elsewhere: the caller
  /// can tell who), and other errnos of the kernel.
  static void open(boost::asio::io_context& io, std::shared_ptr<System> system, Options options, Opened opened);

  /// Beyond the interface: ENOBUFS when too many requests wait. A request that takes longer than the timeout loses the
  /// device: it and all that wait complete with ETIMEDOUT, later ones with ENODEV. Companions in the IOMMU group share
  /// one domain, in which identical windows of files are one. A window's descriptor is a file, another device's
  /// (see GetRegionInfo) or, with iommufd, a dma-buf. With iommufd a reset ends every window onto this device's
  /// registers, in other devices' domains: they are to be made anew.
  void submit(Request request, Completion done) override;
  void on_lost(std::move_only_function<void()> lost) override { lost_ = std::move(lost); }

  void on_wanted_back(std::move_only_function<void()> wanted) { wanted_ = std::move(wanted); } ///< REQ: unbind, unplug
  void on_error(std::move_only_function<void()> error) { error_ = std::move(error); }          ///< ERR: AER, fatal
  /// The sentence behind an errno, before the request completes with it.
  void on_failure(std::move_only_function<void(const Error&)> failure) { failure_ = std::move(failure); }

  /// What is under way completes with ECANCELED. `closed` is called later, when every descriptor and mapping is
  /// released; or when the timeout is over, in case the kernel hangs: opening the device then says EBUSY.
  void close(std::move_only_function<void()> closed);

  Interface interface() const { return interface_; }                    ///< type1 or iommufd
  unsigned group() const { return group_; }                             ///< the IOMMU group's number
  const std::vector<IovaRange>& iova_ranges() const { return ranges_; } ///< where windows can be, ascending

  ~Device() override; ///< closes, without waiting

private:
  struct Shared; ///< with the worker's thread
  Device(boost::asio::io_context& io, std::shared_ptr<Shared> shared);
  static Result<std::shared_ptr<Device>> make(boost::asio::io_context& io);
  void start(std::shared_ptr<System> system, const Options& options, std::optional<VfToken> token, Opened opened);
  void is_open(Opened opened);
  void watch(boost::asio::posix::stream_descriptor& event, void (Device::*fired)());
  void request_fired();
  void error_fired();
  int relay_errors(SetIrqs& request);
  void answered(Result<Answer> result, Completion done);
  void stuck();
  void end(int number);

  boost::asio::io_context& io_;
  boost::asio::posix::stream_descriptor request_event_, error_event_;
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Worker> worker_;
  Fd client_errors_; ///< the client's eventfd for ERR
  Interface interface_ = Interface::automatic;
  unsigned group_ = 0;
  std::vector<IovaRange> ranges_;
  bool over_ = false;
  std::move_only_function<void()> lost_, wanted_, error_;
  std::move_only_function<void(const Error&)> failure_;
};

} // namespace smartio::vfio::kernel
