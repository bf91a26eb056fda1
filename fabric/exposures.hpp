// Memory of this host's clients in the window of a path. Mapping pins every page, and a virtual machine maps all of
// its memory anew, in other pieces, several times while it starts. So what was exposed stays registered when it is no
// longer used: the lender's device does not reach it then, because the lender's IOMMU does not; the lender itself can,
// as all that was ever exposed, until the client's session ends. Whoever punches holes into a file, or shortens it,
// must not expose those pages again in the session: the device would still reach the old ones.
#pragma once

#include "fd.hpp"
#include "path.hpp"
#include "range_allocator.hpp"

#include <smartio/types.hpp>

#include <expected>
#include <functional>
#include <list>
#include <memory>
#include <optional>

namespace smartio {

/// One for a path; single-threaded. The pieces of a client's file share one room in the window, as large as the file
/// where a piece is a good part of it and the window has that much, and each byte is mapped once in it. What is not a
/// regular file (memfds are) cannot be told from others of its kind: it has a room of its own, and only while it is
/// used. Whoever needs room gets that of what is unused, whichever client's, the oldest first.
class Exposures : public std::enable_shared_from_this<Exposures> {
public:
  using Exposed = std::move_only_function<void(std::expected<std::uint64_t, int>)>; ///< offset in the window, or errno
  static constexpr std::size_t most_unused = 8; ///< rooms that stay without a use, besides those that are used

  /// A part of the window that only the rooms of its clients are in. It ends with the last that knows it.
  class Reserve {
    friend Exposures;

  public:
    Reserve(std::shared_ptr<fabric::Path> path, std::uint64_t at, std::uint64_t bytes);
    Reserve(const Reserve&) = delete;
    Reserve& operator=(const Reserve&) = delete;
    ~Reserve();
    const std::shared_ptr<fabric::Path>& path() const noexcept { return path_; }

  private:
    std::optional<std::uint64_t> allocate(std::uint64_t bytes);
    void release(std::uint64_t at);
    std::shared_ptr<fabric::Path> path_;
    std::uint64_t at_;
    RangeAllocator free_;
    unsigned rooms_ = 0; ///< what could not be unmapped is one for ever
  };
  using ReserveRef = std::shared_ptr<Reserve>;

  /// Clients have no rooms in common.
  class Client {
    friend Exposures;

  public:
    explicit Client(ReserveRef reserve = {}) : reserve_(std::move(reserve)) {}

  private:
    bool over_ = false;
    ReserveRef reserve_; ///< its rooms are there while they fit, then anywhere
  };
  using ClientRef = std::shared_ptr<Client>;

  explicit Exposures(std::shared_ptr<fabric::Path> path);
  ~Exposures(); ///< every client was closed before
  const std::shared_ptr<fabric::Path>& path() const noexcept { return path_; }

  /// One at a time for a client: `done` comes before its next. EINVAL: no range; ENOSPC: no room, although all that was
  /// unused is gone; ECANCELED: closed; others are fstat's and the path's device's, and nothing is exposed that was not
  /// before.
  void expose(ClientRef client, Fd fd, std::uint64_t offset, std::uint64_t size, Access access, Exposed done);

  /// Ends one use of what was exposed `at` this offset in the window. Memory that must not stay is unmapped when `done`
  /// is called, possibly before this returns.
  void unexpose(std::uint64_t at, std::move_only_function<void()> done);

  /// Unmaps all that is the client's; a map under way once it is done. The lender reaches nothing of it any more.
  void close(const ClientRef& client);

  /// Room as of Path::reserve, for others: what is unused gives it up. Path::release ends it.
  void reserve(std::uint64_t bytes, std::move_only_function<void(std::optional<std::uint64_t>)> done);

  /// The same, for clients to come; null: no room.
  void reserve_for_clients(std::uint64_t bytes, std::move_only_function<void(ReserveRef)> done);

private:
  struct File;
  struct Piece;
  struct Room;
  using Rooms = std::list<Room>; ///< those without a use in the order in which they lost it
  Rooms::iterator find(const Piece& piece);
  Rooms::iterator oldest_unused();
  bool reserve_for(const Piece& piece);
  std::function<void()> releaser(const Room& room) const;
  void make_room(Piece piece, Exposed done);
  void map_missing(Rooms::iterator room, Piece piece, Exposed done);
  void mapped(Rooms::iterator room, Piece piece, Exposed done, int error);
  void drop(Rooms::iterator room, std::move_only_function<void()> done);

  std::shared_ptr<fabric::Path> path_;
  Rooms rooms_;
};

} // namespace smartio
