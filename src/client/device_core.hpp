// What a device and everything made from it share: the connection to the device's server, the thread that runs it, and
// what has to happen when the device is taken back. The public classes are thin: they hold a reference to this.
#pragma once

#include "device.hpp"
#include "fd.hpp"
#include "range_allocator.hpp"
#include "result.hpp"
#include "user/client.hpp"
#include "waiter.hpp"

#include <array>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <smartio/device.hpp>
#include <thread>
#include <vector>

namespace smartio::detail {

struct Loan;

/// Destroyed by the last of its users, on that user's thread; then the connection is closed, and `loan` released after
/// it.
struct DeviceCore {
  /// What the device's server said when the device was opened.
  struct Description {
    std::array<std::uint64_t, 6> bar_size{};
    std::uint64_t config_size = 0;
    std::uint32_t interrupts = vfio::msix; ///< which of msix, msi, intx the vectors are: the first the device has
    unsigned vectors = 0;
    bool vectors_fixed = false; ///< all vectors must be enabled at once (VFIO_IRQ_INFO_NORESIZE)
    bool can_reset = false;
    std::optional<unsigned> slice{};             ///< of the IOVAs, which windows must lie in; none: anywhere
    std::vector<IovaRange> iovas{};              ///< where the device's IOMMU takes windows; empty: not known
    std::vector<std::uint32_t> end_interrupts{}; ///< ERR, REQ: those it has of them tell that it is lost or wanted back
  };

  static Result<std::shared_ptr<DeviceCore>> open(const std::string& path, std::chrono::milliseconds timeout,
                                                  std::shared_ptr<Loan> loan);
  static Device make_device(std::shared_ptr<DeviceCore> core) { return Device(std::move(core)); }

  explicit DeviceCore(std::shared_ptr<Loan> loan);
  DeviceCore(const DeviceCore&) = delete;
  ~DeviceCore();

  // Any thread but the device's.

  /// Runs `work(done)` on the device's thread and waits until `done` was called with the result. Bounded, because the
  /// client bounds every request.
  template <class T, class Work> T await(Work work) {
    Waiter<T> waiter;
    boost::asio::post(io, [&waiter, work = std::move(work)]() mutable {
      work([&waiter](T value) { waiter.set(std::move(value)); });
    });
    return waiter.wait();
  }

  /// Sends a request and waits for its answer; `what` says what is done, for the error ("reset the device").
  template <class Answer> Result<Answer> request(vfio::Request request, std::string what) {
    return await<Result<Answer>>([this, &request, &what](auto done) {
      submit(std::move(request), [&what, done = std::move(done)](vfio::Reply reply) mutable {
        done(answer_of<Answer>(std::move(reply), what));
      });
    });
  }

  // Any thread.

  bool revoked() const noexcept { return revoked_now.load(std::memory_order_acquire); }

  /// The answer in `reply`, or an error that says `what` failed and why. A lost connection is Errc::revoked.
  template <class Answer> static Result<Answer> answer_of(vfio::Reply reply, const std::string& what) {
    if (!reply) return std::unexpected(error_of(reply.error(), what));
    if (auto* answer = std::get_if<Answer>(&*reply)) return std::move(*answer);
    return std::unexpected(error_of(EPROTO, what));
  }
  /// Whether the server confirmed that no window is left; waits for that while take-back asks it, which is bounded.
  bool await_dropped();
  /// Device::give_back.
  Result<void> give_back();
  static Error error_of(int number, const std::string& what);

  // The device's thread only.

  /// Hands the request to the client; after take-back completes it with ENODEV.
  void submit(vfio::Request request, vfio::Completion done);

  /// The device was taken back: mapped registers become ones, revoked_fd readable, DMA windows are unmapped and the
  /// connection closed, which tells the lender that this program has let go. It has a moment for that (`connected`), or
  /// as long as it takes (`by_program`: who calls closes the connection). Once; later calls do nothing.
  enum class TakeBack { connected, lost, by_program };
  void take_back(TakeBack how);

  // Teardown order from here down to up: the thread ends first (in the destructor), the loan is released last.
  std::shared_ptr<Loan> loan; ///< null: opened straight, without lending
  Description description;    ///< constant once open
  DeviceInfo identity;        ///< constant once open
  Fd revoked_fd;
  std::atomic<bool> revoked_now = false;
  std::atomic<bool> left = false;            ///< the program gave it back, before anybody took it
  std::atomic<bool> windows_dropped = false; ///< the server confirmed that no window is left
  std::mutex leaving;                        ///< of the next
  std::optional<Result<void>> given_back;

  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> stay{io.get_executor()};
  // The device's thread only:
  std::shared_ptr<vfio::user::Client> client;
  boost::asio::posix::stream_descriptor err_event{io}, req_event{io}; ///< of the device's end_interrupts
  boost::asio::steady_timer grace{io};
  RangeAllocator iovas = iova_allocator();           ///< as the description says, once open
  std::set<Bar*> bars;                               ///< what take-back turns into ones
  std::set<unsigned> vectors_taken;                  ///< by an Interrupt
  bool dropping = false;                             ///< the server was asked to drop all windows
  std::vector<std::function<void(bool)>> await_drop; ///< who waits for its answer

  std::thread thread;

private:
  Result<void> leave();
  Result<void> connect(const std::string& path, std::chrono::milliseconds timeout);
  Result<void> describe();
  Result<void> identify(const std::string& path);
  Result<void> describe_interrupts(std::uint32_t kinds);
  Result<void> watch_errors();
  void await_error();
  void await_request();
  void confirm_request();
  void dropped(bool confirmed);
};

} // namespace smartio::detail
