// Which windows of addresses there are, and what is kept of each: one table for whoever keeps DMA windows. Everything
// costs the logarithm of their number, and what is found.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <ranges>
#include <utility>

namespace smartio {

/// Addresses from `first` to `last`, which is one of them: 2^64 does not fit into 64 bits. None where `last` is less.
struct AddressRange {
  std::uint64_t first, last;

  static constexpr AddressRange all() { return {0, UINT64_MAX}; }
  /// Of `size` bytes, more than 0, at `start`; they do not wrap.
  static constexpr AddressRange of(std::uint64_t start, std::uint64_t size) { return {start, start + (size - 1)}; }
  constexpr bool overlaps(const AddressRange& other) const { return first <= other.last && other.first <= last; }
  constexpr bool contains(const AddressRange& other) const { return first <= other.first && other.last <= last; }
};

/// Windows by their first address. overlapping() needs them not to overlap each other: whoever adds one has
/// looked, or takes the word of whoever accepted it.
template <class Value> class WindowTable {
public:
  struct Window {
    std::uint64_t size;
    Value value;
  };
  using Map = std::map<std::uint64_t, Window>;
  using iterator = typename Map::iterator;
  using const_iterator = typename Map::const_iterator;

  auto begin() const { return windows_.begin(); }
  auto end() const { return windows_.end(); }
  std::size_t size() const { return windows_.size(); }
  bool empty() const { return windows_.empty(); }
  std::uint64_t bytes() const { return bytes_; } ///< of all windows

  static AddressRange range_of(const std::pair<const std::uint64_t, Window>& entry) {
    return AddressRange::of(entry.first, entry.second.size);
  }

  /// Those that have a byte in the range.
  auto overlapping(const AddressRange& range) { return overlapping(windows_, range); }
  auto overlapping(const AddressRange& range) const { return overlapping(windows_, range); }
  /// Those that begin in it, also where windows overlap.
  auto beginning_in(const AddressRange& range) {
    const auto from = windows_.lower_bound(range.first);
    return std::ranges::subrange(from, range.last < range.first ? from : windows_.upper_bound(range.last));
  }

  /// The one that begins there; null: none does.
  const Value* find(std::uint64_t start) const {
    const auto found = windows_.find(start);
    return found == windows_.end() ? nullptr : &found->second.value;
  }

  /// False, and nothing is changed, if one begins there already.
  bool add(std::uint64_t start, std::uint64_t size, Value value = {}) {
    if (!windows_.try_emplace(start, Window{size, std::move(value)}).second) return false;
    bytes_ += size;
    return true;
  }
  void erase(std::uint64_t start) {
    if (const auto found = windows_.find(start); found != windows_.end()) erase(found);
  }
  iterator erase(const_iterator window) {
    bytes_ -= window->second.size;
    return windows_.erase(window);
  }
  /// Of those found here.
  void erase(std::ranges::subrange<iterator> found) {
    for (auto at = found.begin(); at != found.end();) at = erase(at);
  }
  void clear() {
    windows_.clear();
    bytes_ = 0;
  }

private:
  template <class Table> static auto overlapping(Table& windows, const AddressRange& range) {
    auto from = windows.upper_bound(range.first);
    if (range.last < range.first) return std::ranges::subrange(from, from);
    if (from != windows.begin() && range_of(*std::prev(from)).last >= range.first) --from;
    return std::ranges::subrange(from, windows.upper_bound(range.last));
  }

  Map windows_;
  std::uint64_t bytes_ = 0;
};

} // namespace smartio
