// What drivers of all kinds of devices do: touch registers, own memory the device reaches, wait with a limit.
#pragma once

#include <chrono>
#include <cstring>
#include <functional>
#include <smartio/smartio.hpp>
#include <string>
#include <utility>

namespace exercise {

using smartio::Result;

/// Waits until `done` gives true; after `limit` Errc::timed_out names `what`.
Result<void> await(const std::function<Result<bool>()>& done, const std::string& what,
                   std::chrono::milliseconds limit = std::chrono::seconds{5});

/// 32-bit registers of one BAR.
class Registers {
public:
  explicit Registers(smartio::BarMapping bar) : bar_(std::move(bar)) {}
  Result<std::uint32_t> get(std::size_t offset) const;
  Result<void> set(std::size_t offset, std::uint32_t value) const { return bar_.write(offset, 4, value); }
  /// Waits until the bits of `mask` are `value`.
  Result<void> await(std::size_t offset, std::uint32_t mask, std::uint32_t value, const std::string& what) const;

  const smartio::BarMapping& bar() const noexcept { return bar_; }

private:
  smartio::BarMapping bar_;
};

/// Whole pages of zeros that the device reaches.
class Buffer {
public:
  static Result<Buffer> make(const smartio::Device& device, std::size_t bytes);

  std::uint64_t iova(std::size_t offset = 0) const { return std::to_underlying(window_.iova()) + offset; }
  std::span<std::byte> bytes(std::size_t offset, std::size_t size) const {
    return memory_.bytes().subspan(offset, size);
  }
  /// A value that the device may change or look at at any time.
  template <class T> volatile T& at(std::size_t offset) const {
    return *reinterpret_cast<volatile T*>(memory_.bytes().data() + offset);
  }

private:
  Buffer(smartio::Memory memory, smartio::DmaWindow window) : memory_(std::move(memory)), window_(std::move(window)) {}
  smartio::Memory memory_;
  smartio::DmaWindow window_;
};

/// A pattern in which no two neighbouring words are equal, different for each seed.
void fill(std::span<std::byte> bytes, std::uint32_t seed);
/// Whether `bytes` hold that pattern; the error names the first byte that differs.
Result<void> check_pattern(std::span<const std::byte> bytes, std::uint32_t seed, const std::string& what);

} // namespace exercise
