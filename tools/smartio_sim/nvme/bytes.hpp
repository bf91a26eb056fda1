// Writing fields into a structure laid out by offsets.
#pragma once

#include <cassert>
#include <cstring>
#include <span>
#include <string_view>

namespace smartio::sim::nvme {

/// Stores `value` at `offset`; the offsets are ours, so beyond the end is our bug.
template <class T> void put(std::span<std::byte> to, std::size_t offset, T value) {
  assert(offset + sizeof value <= to.size());
  std::memcpy(to.data() + offset, &value, sizeof value);
}

/// An ASCII field: left justified, filled up with `fill`.
inline void put_text(std::span<std::byte> to, std::size_t offset, std::size_t size, std::string_view text,
                     char fill = ' ') {
  assert(offset + size <= to.size());
  std::memset(to.data() + offset, fill, size);
  std::memcpy(to.data() + offset, text.data(), text.size() < size ? text.size() : size);
}

} // namespace smartio::sim::nvme
