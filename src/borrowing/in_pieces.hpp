// Windows too long for one message: their pages are pinned one by one, at some GiB a second, and no hop may wait for
// an answer longer than a piece takes. Where a window comes in it is cut, and each piece is a request of its own.
#pragma once

#include "device.hpp"

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

namespace smartio {

/// A TiB, which is more than can be pinned while a client waits; a client's window may claim any size.
constexpr std::uint64_t most_pieces = 1024;

std::uint64_t count_pieces(std::uint64_t iova, std::uint64_t size);

/// The pieces of a window, which must be no more than most_pieces: IOVA and size. They end where a GiB of addresses
/// does, so that large pages stay whole.
std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces_of(std::uint64_t iova, std::uint64_t size);

/// One piece after the other. `submit` may complete before it returns. Single-threaded.
class InPieces final : public std::enable_shared_from_this<InPieces> {
public:
  using Submit = std::function<void(vfio::Request, vfio::Completion)>;
  explicit InPieces(Submit submit) : submit_(std::move(submit)) {}

  /// All of the window or nothing: when a piece fails, or `until` is over before the last, those before are unmapped
  /// again, and then it fails (ETIMEDOUT). Pieces that do not unmap are what `stuck` is told of, before.
  void map(vfio::DmaMap window, std::chrono::steady_clock::time_point until, std::move_only_function<void()> stuck,
           vfio::Completion done);

  /// Unmaps each; the answer is their sum, or the first error, at which it stops.
  void unmap(std::vector<vfio::DmaUnmap> pieces, vfio::Completion done);

private:
  void map_next(std::size_t piece);
  void undo(std::size_t mapped, int error);
  void unmap_next(std::size_t piece);
  void end(vfio::Reply reply);

  Submit submit_;
  vfio::Completion done_;
  vfio::DmaMap window_{};
  std::chrono::steady_clock::time_point until_;
  std::move_only_function<void()> stuck_;
  std::vector<vfio::DmaUnmap> pieces_;
  std::uint64_t bytes_ = 0; ///< unmapped
};

} // namespace smartio
