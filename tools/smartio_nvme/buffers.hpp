// Data buffers for commands, with the PRP lists that describe them.
#pragma once

#include "nvme.hpp"

#include <smartio/device.hpp>

namespace nvme {

/// The longest transfer one page of PRP entries describes from a page boundary, in bytes.
inline constexpr std::size_t max_buffer = std::size_t{1} << 20;

class Buffers {
public:
  /// `count` buffers of at least `bytes` each (at most max_buffer).
  static smartio::Result<Buffers> make(const smartio::Device& device, unsigned count, std::size_t bytes);

  std::span<std::byte> data(unsigned buffer) const noexcept;

  /// Points the command at the first `bytes` of a buffer.
  void describe(Command& command, unsigned buffer, std::size_t bytes) const noexcept;

private:
  Buffers(smartio::Memory memory, smartio::DmaWindow window, std::size_t stride, unsigned count);
  std::uint64_t list_offset(unsigned buffer) const noexcept;

  smartio::Memory memory_; // the buffers, then a page of PRP entries for each
  smartio::DmaWindow window_;
  std::size_t stride_;
  unsigned count_;
};

} // namespace nvme
