#include "exposures.hpp"

#include "mapping.hpp"
#include "page.hpp"

#include <algorithm>
#include <boost/icl/interval_set.hpp>
#include <cerrno>
#include <sys/stat.h>
#include <tuple>

namespace smartio {

using Range = boost::icl::right_open_interval<std::uint64_t>;
using Ranges = boost::icl::interval_set<std::uint64_t, std::less, Range>;

/// The same memory, for the same access.
struct Exposures::File {
  dev_t device;
  ino_t inode;
  Access access;
  bool operator==(const File&) const = default;
};

/// What is asked for.
struct Exposures::Piece {
  ClientRef client;
  std::shared_ptr<const Fd> fd;
  std::uint64_t offset, size; ///< in the file
  Access access;
  std::optional<File> file; ///< unless it has a room of its own
  std::uint64_t file_bytes = 0;

  Range range() const { return {offset, offset + size}; }
};

/// Reserved in the window, and mapped there as far as it was asked for.
struct Exposures::Room {
  ClientRef client;
  std::uint64_t at;          ///< in the window
  std::uint64_t start, size; ///< in the file, whole pages
  std::optional<File> file;
  std::shared_ptr<const Fd> fd; ///< held: the inode's number cannot become another file's
  Ranges mapped{};              ///< in the file
  unsigned uses = 0;
  bool busy = false;    ///< somebody waits for it
  ReserveRef reserve{}; ///< that it is in; null: none

  bool holds(const Piece& piece) const {
    return file && file == piece.file && client == piece.client && piece.offset >= start &&
           in_range(piece.offset - start, piece.size, size);
  }
};

Exposures::Reserve::Reserve(std::shared_ptr<fabric::Path> path, std::uint64_t at, std::uint64_t bytes)
    : path_(std::move(path)), at_(at), free_({{at, whole_pages(bytes)}}, {}) {}

Exposures::Reserve::~Reserve() {
  if (rooms_ == 0) path_->release(at_);
}

std::optional<std::uint64_t> Exposures::Reserve::allocate(std::uint64_t bytes) {
  const auto size = whole_pages(bytes);
  const auto at = free_.allocate(size, iova_alignment(size));
  if (at) ++rooms_;
  return at;
}

void Exposures::Reserve::release(std::uint64_t at) {
  if (free_.release(at)) --rooms_;
}

Exposures::Exposures(std::shared_ptr<fabric::Path> path) : path_(std::move(path)) {}

Exposures::~Exposures() = default;

void Exposures::expose(ClientRef client, Fd fd, std::uint64_t offset, std::uint64_t size, Access access, Exposed done) {
  if (client->over_) return done(std::unexpected(ECANCELED));
  if (size == 0 || size > UINT64_MAX - offset) return done(std::unexpected(EINVAL));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return done(std::unexpected(errno));
  Piece piece{std::move(client), std::make_shared<const Fd>(std::move(fd)), offset, size, access, {}};
  if (S_ISREG(status.st_mode)) {
    piece.file = File{status.st_dev, status.st_ino, access};
    piece.file_bytes = static_cast<std::uint64_t>(status.st_size);
  }
  const auto room = find(piece);
  if (room == rooms_.end()) return make_room(std::move(piece), std::move(done));
  ++room->uses;
  map_missing(room, std::move(piece), std::move(done));
}

/// Preferably where nothing is missing.
Exposures::Rooms::iterator Exposures::find(const Piece& piece) {
  const auto complete = std::ranges::find_if(rooms_, [&piece](const Room& room) {
    return room.holds(piece) && boost::icl::contains(room.mapped, piece.range());
  });
  if (complete != rooms_.end()) return complete;
  return std::ranges::find_if(rooms_, [&piece](const Room& room) { return room.holds(piece); });
}

Exposures::Rooms::iterator Exposures::oldest_unused() { return std::ranges::find(rooms_, 0U, &Room::uses); }

/// For the whole file if the piece is a good part of it, else for the piece: the last of rooms_. False: no room.
bool Exposures::reserve_for(const Piece& piece) {
  const bool whole = in_range(piece.offset, piece.size, piece.file_bytes) && piece.size >= piece.file_bytes / 4;
  const auto take = [&](std::uint64_t start, std::uint64_t size) {
    auto reserve = piece.client->reserve_;
    auto at = reserve ? reserve->allocate(size) : std::nullopt;
    if (!at) reserve.reset();
    if (!at) at = path_->reserve(size);
    if (at)
      rooms_.push_back({.client = piece.client,
                        .at = *at,
                        .start = start,
                        .size = whole_pages(size),
                        .file = piece.file,
                        .fd = piece.fd,
                        .reserve = std::move(reserve)});
    return at.has_value();
  };
  return (whole && take(0, piece.file_bytes)) || take(piece.offset, piece.size);
}

/// Drops what is unused, the oldest first, until there is room.
void Exposures::make_room(Piece piece, Exposed done) {
  if (piece.client->over_) return done(std::unexpected(ECANCELED));
  if (reserve_for(piece)) {
    const auto room = std::prev(rooms_.end());
    ++room->uses;
    return map_missing(room, std::move(piece), std::move(done));
  }
  const auto oldest = oldest_unused();
  if (oldest == rooms_.end()) return done(std::unexpected(ENOSPC));
  drop(oldest, [self = shared_from_this(), piece = std::move(piece), done = std::move(done)]() mutable {
    self->make_room(std::move(piece), std::move(done));
  });
}

/// One stretch after the other: a device may refuse too many requests at once.
void Exposures::map_missing(Rooms::iterator room, Piece piece, Exposed done) {
  Ranges missing(piece.range());
  missing -= room->mapped;
  room->busy = !missing.empty();
  if (!room->busy) return done(room->at + (piece.offset - room->start));
  const auto part = *missing.begin();
  auto fd = piece.fd->duplicate();
  if (!fd) return mapped(room, std::move(piece), std::move(done), fd.error().code.value());
  vfio::DmaMap map{path_->inbound(room->at + (part.lower() - room->start)), part.upper() - part.lower(), piece.access,
                   std::move(*fd), part.lower()};
  path_->device()->submit(std::move(map), [self = shared_from_this(), room, part, piece = std::move(piece),
                                           done = std::move(done)](const vfio::Reply& reply) mutable {
    if (reply) room->mapped += part;
    self->mapped(room, std::move(piece), std::move(done), reply ? 0 : reply.error());
  });
}

/// What succeeded stays, for whoever asks again. Memory that may be locked, or windows of the device, are given up by
/// what is unused.
void Exposures::mapped(Rooms::iterator room, Piece piece, Exposed done, int error) {
  auto failed = [&done](int number) {
    return [done = std::move(done), number]() mutable { done(std::unexpected(number)); };
  };
  if (piece.client->over_) return drop(room, failed(ECANCELED));
  if (error == 0) return map_missing(room, std::move(piece), std::move(done));
  const auto oldest = oldest_unused();
  const bool again = (error == ENOMEM || error == ENOSPC) && oldest != rooms_.end();
  room->busy = again;
  if (!again) return unexpose(room->at, failed(error));
  drop(oldest, [self = shared_from_this(), room, piece = std::move(piece), done = std::move(done)]() mutable {
    self->mapped(room, std::move(piece), std::move(done), 0);
  });
}

void Exposures::unexpose(std::uint64_t at, std::move_only_function<void()> done) {
  const auto room = std::ranges::find_if(rooms_, [at](const Room& r) { return at >= r.at && at - r.at < r.size; });
  if (room == rooms_.end() || room->uses == 0 || --room->uses > 0) return done();
  rooms_.splice(rooms_.end(), rooms_, room); // it is the youngest of the unused
  if (!room->file || room->mapped.empty()) return drop(room, std::move(done));
  if (static_cast<std::size_t>(std::ranges::count(rooms_, 0U, &Room::uses)) > most_unused)
    return drop(oldest_unused(), std::move(done));
  done();
}

/// Gives its part of the window back.
std::function<void()> Exposures::releaser(const Room& room) const {
  return [path = path_, reserve = room.reserve, at = room.at] {
    if (reserve)
      reserve->release(at);
    else
      path->release(at);
  };
}

/// The room is used again only once nothing is reached there.
void Exposures::drop(Rooms::iterator room, std::move_only_function<void()> done) {
  const auto [at, size, reached] = std::tuple(room->at, room->size, !room->mapped.empty());
  auto release = releaser(*room);
  rooms_.erase(room);
  if (!reached) {
    release();
    return done();
  }
  path_->device()->submit(vfio::DmaUnmap{path_->inbound(at), size},
                          [release = std::move(release), done = std::move(done)](const vfio::Reply& reply) mutable {
                            if (reply) release();
                            done();
                          });
}

void Exposures::close(const ClientRef& client) {
  client->over_ = true;
  for (auto room = rooms_.begin(); room != rooms_.end();)
    if (const auto next = room++; next->client == client && !next->busy) drop(next, [] {});
}

void Exposures::reserve(std::uint64_t bytes, std::move_only_function<void(std::optional<std::uint64_t>)> done) {
  const auto at = path_->reserve(bytes);
  const auto oldest = oldest_unused();
  if (at || oldest == rooms_.end()) return done(at);
  drop(oldest,
       [self = shared_from_this(), bytes, done = std::move(done)]() mutable { self->reserve(bytes, std::move(done)); });
}

void Exposures::reserve_for_clients(std::uint64_t bytes, std::move_only_function<void(ReserveRef)> done) {
  reserve(bytes, [path = path_, bytes, done = std::move(done)](std::optional<std::uint64_t> at) mutable {
    done(at ? std::make_shared<Reserve>(std::move(path), *at, bytes) : nullptr);
  });
}

} // namespace smartio
