// A family of bridges: where it has its registers, and what is written there for each thing an adapter can do. Adds
// steps and keeps what it has found out; carries nothing out. A new family is one more of these, and a line in
// driver_of().
#pragma once

#include "ntb/steps.hpp"

#include <array>
#include <memory>

namespace smartio::fabric::ntb {

inline constexpr unsigned window_count = 2, doorbell_count = 32, scratchpad_count = 16;
inline constexpr unsigned vector_count = 33; ///< doorbells, and the link's changes

/// What a bridge is.
struct Shape {
  unsigned generation = 0;                                ///< Intel's: 3 or 4
  bool upstream = false;                                  ///< which of the two ends: USD, otherwise DSD
  std::uint64_t alignment = 0;                            ///< of a translation, bytes; 0: the window's size
  std::array<std::uint64_t, window_count> window_bytes{}; ///< of BAR 2 and BAR 4; the peer's are as large
  std::uint64_t usable_doorbells = 0;                     ///< bits
  unsigned link_vector = 0;                               ///< that the link's changes signal
};

struct Link {
  bool up = false;
  unsigned speed = 0; ///< PCI Express generation
  unsigned width = 0; ///< lanes
};

class Driver {
public:
  virtual ~Driver() = default;
  const Shape& shape() const noexcept { return shape_; } ///< once what identify() added is done

  /// Errc::bad_request: it is a bridge that cannot be driven.
  virtual void identify(Steps& steps) = 0;
  /// Until a window is asked for the peer reaches nothing; no doorbell signals.
  virtual void prepare(Steps& steps) const = 0;
  /// These doorbells and the link signal, all others do not.
  virtual void enable_signals(Steps& steps, std::uint64_t doorbells) const = 0;
  virtual void clear_signals(Steps& steps) const = 0; ///< all that have happened

  virtual void want_link(Steps& steps, bool up) const = 0;
  /// The link as it is, its event acknowledged before.
  virtual void read_link(Steps& steps, std::shared_ptr<Link> link) const = 0;

  /// Closed first, so that no access comes out half way between the old translation and the new one; `bytes` 0: only
  /// that.
  virtual void set_window(Steps& steps, unsigned index, std::uint64_t base, std::uint64_t bytes) const = 0;

  virtual void ring(Steps& steps, unsigned bit) const = 0;
  virtual void read_doorbells(Steps& steps, std::shared_ptr<std::uint64_t> bits) const = 0;
  virtual void clear_doorbells(Steps& steps, std::uint64_t bits) const = 0;

  virtual void write_peer_scratchpad(Steps& steps, unsigned index, std::uint32_t value) const = 0;
  virtual void read_scratchpad(Steps& steps, unsigned index, std::shared_ptr<std::uint32_t> value) const = 0;

protected:
  Shape shape_;
};

/// Of a device, by the first word of its configuration space; Errc::bad_request: of none that is known.
Result<std::unique_ptr<Driver>> driver_of(std::uint32_t id);

} // namespace smartio::fabric::ntb
