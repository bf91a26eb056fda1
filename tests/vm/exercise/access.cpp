#include "access.hpp"

#include "result.hpp"

#include <algorithm>
#include <thread>
#include <vector>

namespace exercise {

using namespace std::chrono_literals;
using smartio::Errc;
using smartio::fail;

Result<void> await(const std::function<Result<bool>()>& done, const std::string& what,
                   std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!TRY(done())) {
    if (std::chrono::steady_clock::now() > deadline)
      return fail(Errc::timed_out, "Not within {} ms: {}", limit.count(), what);
    std::this_thread::sleep_for(1ms); // a register can only be polled
  }
  return {};
}

Result<std::uint32_t> Registers::get(std::size_t offset) const {
  return static_cast<std::uint32_t>(TRY(bar_.read(offset, 4)));
}

Result<void> Registers::await(std::size_t offset, std::uint32_t mask, std::uint32_t value,
                              const std::string& what) const {
  const auto reached = [this, offset, mask, value]() -> Result<bool> { return (TRY(get(offset)) & mask) == value; };
  return exercise::await(reached, what);
}

Result<Buffer> Buffer::make(const smartio::Device& device, std::size_t bytes) {
  auto memory = TRY(smartio::Memory::allocate(bytes));
  auto window = TRY(device.map_dma(memory, smartio::Access::read_write));
  return Buffer(std::move(memory), std::move(window));
}

void fill(std::span<std::byte> bytes, std::uint32_t seed) {
  std::uint32_t state = seed * 2654435761U + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(state >> 24);
  }
}

Result<void> check_pattern(std::span<const std::byte> bytes, std::uint32_t seed, const std::string& what) {
  std::vector<std::byte> expected(bytes.size());
  fill(expected, seed);
  const auto [is, should] = std::ranges::mismatch(bytes, expected);
  if (is == bytes.end()) return {};
  return fail(Errc::bad_request, "{}: byte {} is {:#04x}, not {:#04x}", what, is - bytes.begin(),
              std::to_integer<unsigned>(*is), std::to_integer<unsigned>(*should));
}

} // namespace exercise
