// Pages: what processors, IOMMUs and BARs map by. x86-64 only.
#pragma once

#include <cstdint>

namespace smartio {

inline constexpr std::uint64_t page_size = 4096, huge_page_size = 2U << 20; ///< bytes

/// `bytes` rounded up to whole pages; at most 2^64 - `page`, a power of two.
constexpr std::uint64_t whole_pages(std::uint64_t bytes, std::uint64_t page = page_size) {
  return (bytes + page - 1) & ~(page - 1);
}

} // namespace smartio
