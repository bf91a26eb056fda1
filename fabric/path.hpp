// How a peer on another host is reached: whether it lives, what it reaches here, what is reached there. One interface,
// whatever carries it (ntb/peer.hpp: a bridge); nothing above fabric/ asks which kind it is, only what opens one knows.
//
// Each end has a window of the path: the peer's accesses to an offset of it come out in what was mapped there. The
// other end calls the same bytes its aperture, and the same byte has the same offset in both, so an offset is all that
// two nodes tell each other of memory.
#pragma once

#include "device.hpp"

#include <smartio/error.hpp>
#include <smartio/types.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace smartio::fabric {

/// One end, to one peer. Single-threaded, on one event loop; never waits: what takes time completes later, or before
/// the call returns. What opened it says when state() or used_bytes() changes. An end that goes down stays whole: what
/// is reserved, mapped and claimed is so until it is released, and serves again when the path comes up.
class Path {
public:
  using Done = std::move_only_function<void(Result<void>)>;

  struct State {
    bool up = false;
    NodeId node{};                    ///< the peer; 0 before it was ever heard
    std::uint64_t aperture_bytes = 0; ///< that we reach of its window; 0 before it was ever up
    std::string reason;               ///< why it is down, for people; while it is up it says nothing
  };
  /// What each end drew at random when it began: together they name this path, and this life of it, among all that two
  /// nodes may have, and stand in each message about it. The peer's is 0 while it is not known.
  struct Lives {
    std::uint32_t own, peer;
    bool operator==(const Lives&) const = default;
  };

  virtual ~Path() = default;

  virtual const State& state() const noexcept = 0;
  virtual Lives lives() const noexcept = 0;

  /// Tells the peer that this end leaves; it reaches nothing here once `done` is called. For good: afterwards only what
  /// there was is unmapped and released.
  virtual void close(std::move_only_function<void()> done) = 0;

  /// The peer as a device of this host. It reaches what is mapped for it (vfio::DmaMap) at inbound() of a reserved
  /// offset, until that is unmapped; one that fails leaves nothing mapped, and an unmap that fails must be taken as not
  /// done. Its region aperture_region is the aperture: RegionRead and RegionWrite at an offset below
  /// state().aperture_bytes are accesses to the peer's window. Errors are the kind's: an errno.
  virtual const std::shared_ptr<vfio::Device>& device() const noexcept = 0;
  static constexpr std::uint32_t aperture_region = 2;

  // What the peer reaches here.
  /// Room for `bytes` in the window: its offset, at a multiple of 4 KiB, or of 2 MiB for 2 MiB and more. Nothing is
  /// reached there until it is mapped. nullopt: no room, or no bytes.
  virtual std::optional<std::uint64_t> reserve(std::uint64_t bytes) = 0;
  /// Gives back what reserve() gave, once everything there was unmapped: the peer goes on reaching what stays mapped,
  /// also when the room is another's. Any other offset changes nothing.
  virtual void release(std::uint64_t offset) = 0;
  virtual Iova inbound(std::uint64_t offset) const noexcept = 0; ///< where device() is to map an offset of the window
  virtual std::uint64_t used_bytes() const noexcept = 0;         ///< that are reserved, in whole pages

  // What is reached there.
  /// What a client, or another device, may map of the aperture: its offset 0 is at fd_offset of the descriptor. Without
  /// one nothing can be mapped, and accesses are device()'s. The same for as long as the path is open.
  virtual const vfio::RegionInfo& aperture() const noexcept = 0;
  /// Completes once all that this host and its devices wrote through the aperture before has arrived. An error: it
  /// cannot be told whether it has.
  virtual void flush(Done done) = 0;

  // Doorbells: few, each a number below 255 that the peer is told and rings.
  /// One of this end's, until it is released; `rung` is called from the event loop, once for one or more rings.
  /// nullopt: none is left.
  virtual std::optional<unsigned> claim_doorbell(std::function<void()> rung) = 0;
  /// `rung` is not called any more; others' doorbells are as before.
  virtual void release_doorbell(unsigned bit) = 0;
  /// Rings one that the peer named: any number, hostile ones too. One that there is not is an error, one that nobody
  /// has claimed rings for nobody. It may overtake what devices wrote before: flush first.
  virtual void ring(unsigned bit, Done done) = 0;
};

} // namespace smartio::fabric
