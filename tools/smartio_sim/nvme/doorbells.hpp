// The page of doorbell registers: a memory file of this client alone, which it may map and store to without a message
// (1.4, 3.1.24 and 3.1.25; stride 0). Its contents are as hostile as any message.
#pragma once

#include "fd.hpp"
#include "mapping.hpp"
#include "spec.hpp"

namespace smartio::sim::nvme {

class Doorbells {
public:
  /// A fresh page, all zeros, whose size nobody can change.
  static Result<Doorbells> open();

  /// The file: the page is at the same offset as in BAR 0 (register_offset::doorbells).
  const Fd& fd() const noexcept { return fd_; }

  std::uint32_t sq_tail(unsigned queue) const { return load(2 * queue); }
  std::uint32_t cq_head(unsigned queue) const { return load(2 * queue + 1); }
  void clear_sq(unsigned queue) { store(2 * queue, 0); }
  void clear_cq(unsigned queue) { store(2 * queue + 1, 0); }
  void clear(); ///< all of them

  /// Index of a doorbell register within the page, at most page_size / 4 - 1: a load with acquire order, so that what
  /// the client wrote before its store is seen; a store with release order.
  std::uint32_t load(unsigned index) const;
  void store(unsigned index, std::uint32_t value);

private:
  Doorbells(Fd fd, Mapping page) : fd_(std::move(fd)), page_(std::move(page)) {}
  Fd fd_;
  Mapping page_;
};

} // namespace smartio::sim::nvme
