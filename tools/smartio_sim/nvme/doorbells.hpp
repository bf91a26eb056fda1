// The pages of doorbell registers: a memory file of this client alone, which it may map and store to without a message
// (1.4, 3.1.24 and 3.1.25). Its contents are as hostile as any message.
#pragma once

#include "fd.hpp"
#include "mapping.hpp"
#include "shape.hpp"
#include <optional>

namespace smartio::sim::nvme {

class Doorbells {
public:
  /// Fresh pages, all zeros, whose size nobody can change.
  static Result<Doorbells> open(const Shape& shape);

  /// The file: the pages are at the same offset as in BAR 0 (register_offset::doorbells).
  const Fd& fd() const noexcept { return fd_; }

  std::uint32_t sq_tail(unsigned queue) const { return load(2 * queue); }
  std::uint32_t cq_head(unsigned queue) const { return load(2 * queue + 1); }
  void clear_sq(unsigned queue) { store(2 * queue, 0); }
  void clear_cq(unsigned queue) { store(2 * queue + 1, 0); }
  void clear(); ///< all of them

  /// Any word of the pages, and the index of the doorbell there, if there is one.
  std::uint32_t load_word(std::uint64_t word) const;
  std::optional<unsigned> index_of(std::uint64_t word) const;

  /// By index of the register: a load with acquire order, so that what the client wrote before its store is seen; a
  /// store with release order.
  std::uint32_t load(unsigned index) const { return load_word(std::uint64_t{index} << stride_); }
  void store(unsigned index, std::uint32_t value);

private:
  static constexpr unsigned count = 2 * (io_queues + 1);
  Doorbells(Fd fd, Mapping pages, unsigned stride) : fd_(std::move(fd)), pages_(std::move(pages)), stride_(stride) {}
  Fd fd_;
  Mapping pages_;
  unsigned stride_; ///< in words, as a power of two
};

} // namespace smartio::sim::nvme
