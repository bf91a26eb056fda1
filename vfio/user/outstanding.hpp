// Commands that were sent and wait for their reply, found by the id of the message. Replies may come in any order.
#pragma once

#include <cassert>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

namespace smartio::vfio::user {

/// Ids are given out one after the other and wrap; the oldest entry's reply is found first.
template <class T> class Outstanding {
public:
  static constexpr std::size_t most = 32768; ///< ids in use, answered ones behind the oldest included

  bool empty() const noexcept { return entries_.empty(); }
  bool full() const noexcept { return entries_.size() >= most; }
  std::uint16_t next_id() const noexcept { return static_cast<std::uint16_t>(first_ + entries_.size()); }

  void add(T entry) { ///< under next_id()
    assert(!full());
    entries_.emplace_back(std::move(entry));
  }
  T* find(std::uint16_t id) noexcept {
    const auto at = static_cast<std::uint16_t>(id - first_);
    return at < entries_.size() && entries_[at] ? &*entries_[at] : nullptr;
  }
  T take(std::uint16_t id) {
    auto& entry = entries_[static_cast<std::uint16_t>(id - first_)];
    assert(entry);
    T taken = std::move(*entry);
    entry.reset();
    while (!entries_.empty() && !entries_.front()) {
      entries_.pop_front();
      ++first_;
    }
    return taken;
  }
  T* oldest() noexcept { return entries_.empty() ? nullptr : &*entries_.front(); }

  /// The oldest that `wanted` holds for, or null.
  template <class Predicate> T* find_if(Predicate wanted) {
    for (auto& entry : entries_)
      if (entry && wanted(*entry)) return &*entry;
    return nullptr;
  }

  /// Hands every entry to `done`; afterwards there are none.
  template <class Function> void clear(Function done) {
    auto entries = std::exchange(entries_, {});
    for (auto& entry : entries)
      if (entry) done(std::move(*entry));
  }

private:
  std::deque<std::optional<T>> entries_; ///< the first is not empty
  std::uint16_t first_ = 0;
};

} // namespace smartio::vfio::user
