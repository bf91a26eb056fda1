// A borrowed device as one client of the loan's socket sees it: its requests go to the lender; after the device was
// taken back or lost, the client is told by the ERR interrupt and gets answers that cannot hurt until it leaves.
#pragma once

#include "device.hpp"
#include "device_source.hpp"
#include "events.hpp"
#include "in_pieces.hpp"

#include <deque>
#include <memory>
#include <set>

namespace smartio {

/// Single-threaded.
class BorrowedDevice final : public vfio::Device, public std::enable_shared_from_this<BorrowedDevice> {
public:
  /// `changed` is called when windows, vectors or the access changed. A client that is not `trusted` gets no descriptor
  /// that would give it more than the registers it asked for. A window is mapped within `patience` or not at all, and a
  /// GiB at a time; what the client asks meanwhile waits for it.
  BorrowedDevice(bool trusted, std::function<void()> changed, std::chrono::milliseconds patience = window_patience)
      : trusted_(trusted), changed_(std::move(changed)), patience_(patience) {}

  /// Half a second before a client gets its answer anyway (vfio::user::Connection), to take back what was mapped.
  static constexpr std::chrono::milliseconds window_patience{4000};

  /// The connection to the lender is there: what the client asked meanwhile goes out.
  void connected(OpenedDevice lender);

  void submit(vfio::Request request, vfio::Completion done) override;
  void on_lost(std::move_only_function<void()>) override {} // ERR tells the client, and reads of ones

  /// Signals ERR. `orderly`: the lender has unmapped everything, so unmaps succeed; otherwise the memory may still be
  /// written, and unmaps fail, until revoke(true) follows.
  void revoke(bool orderly);

  void close(); ///< ends the connection to the lender, which cleans up there

  /// Whether the client was given a VFIO device's own descriptor: as long as it has that, or maps it, the device stays
  /// open.
  bool holds_function() const { return holds_function_; }

  core::Usage usage() const; ///< windows, bytes and vectors; the client's name is the caller's to fill in

private:
  void set_error_interrupt(vfio::SetIrqs& irqs, vfio::Completion& done);
  void forward(vfio::Request request, vfio::Completion done);
  void resume();
  bool in_pieces(vfio::Request& request, vfio::Completion& done);
  vfio::Completion then_resume(vfio::Completion done);
  std::expected<std::vector<vfio::DmaUnmap>, int> cut(const vfio::DmaUnmap& range) const;
  std::shared_ptr<InPieces> pieces();
  vfio::Completion with_trust(vfio::Completion done);
  vfio::Completion counted(const vfio::Request& request, vfio::Completion done);
  void answer_revoked(vfio::Request& request, vfio::Completion& done) const;

  struct Waiting {
    vfio::Request request;
    vfio::Completion done;
  };
  bool trusted_, trapped_ = false, holds_function_ = false;
  std::function<void()> changed_;
  std::chrono::milliseconds patience_;
  OpenedDevice lender_;         ///< nothing before it is connected, and after close()
  std::deque<Waiting> waiting_; ///< for the connection, or the window under way in pieces
  bool busy_ = false;           ///< with such a window
  WindowTable<bool> windows_;   ///< whether it is cut: the lender has its pieces
  std::set<std::uint32_t> vectors_;
  Fd error_event_;
  bool revoked_ = false, orderly_ = false;
};

} // namespace smartio
