#include "in_pieces.hpp"

#include <algorithm>
#include <cerrno>

namespace smartio {

using vfio::Reply;

namespace {

constexpr std::uint64_t longest = 1ULL << 30;

}

std::uint64_t count_pieces(std::uint64_t iova, std::uint64_t size) {
  return size == 0 ? 0 : (iova % longest + (size - 1)) / longest + 1;
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces_of(std::uint64_t iova, std::uint64_t size) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces;
  while (size != 0) {
    const auto piece = std::min(size, longest - iova % longest);
    pieces.emplace_back(iova, piece);
    iova += piece;
    size -= piece;
  }
  return pieces;
}

void InPieces::map(vfio::DmaMap window, std::chrono::steady_clock::time_point until,
                   std::move_only_function<void()> stuck, vfio::Completion done) {
  window_ = std::move(window);
  until_ = until;
  stuck_ = std::move(stuck);
  done_ = std::move(done);
  for (const auto& [iova, size] : pieces_of(std::to_underlying(window_.iova), window_.size))
    pieces_.push_back({Iova{iova}, size});
  map_next(0);
}

void InPieces::map_next(std::size_t piece) {
  if (piece == pieces_.size()) return end(vfio::Done{});
  if (piece != 0 && std::chrono::steady_clock::now() >= until_) return undo(piece, ETIMEDOUT);
  auto fd = window_.fd.duplicate();
  if (!fd) return undo(piece, EMFILE);
  const auto& [iova, size, all] = pieces_[piece];
  const auto from = std::to_underlying(iova) - std::to_underlying(window_.iova);
  submit_(vfio::DmaMap{iova, size, window_.access, std::move(*fd), window_.offset + from},
          [self = shared_from_this(), piece](Reply reply) {
            if (reply) return self->map_next(piece + 1);
            self->undo(piece, reply.error());
          });
}

/// The caller hears of the failure when nothing of its memory is reached any more.
void InPieces::undo(std::size_t mapped, int error) {
  pieces_.resize(mapped);
  window_.fd.reset();
  auto failed = [error, stuck = std::move(stuck_), done = std::move(done_)](const Reply& reply) mutable {
    if (!reply) stuck();
    done(std::unexpected(error));
  };
  unmap(std::move(pieces_), std::move(failed));
}

void InPieces::unmap(std::vector<vfio::DmaUnmap> pieces, vfio::Completion done) {
  pieces_ = std::move(pieces);
  done_ = std::move(done);
  unmap_next(0);
}

void InPieces::unmap_next(std::size_t piece) {
  if (piece == pieces_.size()) return end(vfio::Unmapped{bytes_});
  submit_(pieces_[piece], [self = shared_from_this(), piece](Reply reply) {
    const auto* unmapped = reply ? std::get_if<vfio::Unmapped>(&*reply) : nullptr;
    if (unmapped == nullptr) return self->end(std::unexpected(reply ? EIO : reply.error()));
    self->bytes_ += unmapped->size;
    self->unmap_next(piece + 1);
  });
}

/// Nothing of the caller's is kept.
void InPieces::end(Reply reply) {
  window_.fd.reset();
  stuck_ = nullptr;
  std::exchange(done_, nullptr)(std::move(reply));
}

} // namespace smartio
