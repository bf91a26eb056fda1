// Which addresses of this process are registers of devices, for the handler of SIGBUS (guard_bus_errors).
#pragma once

#include <smartio/error.hpp>

#include <cstddef>
#include <span>
#include <utility>

namespace smartio::detail {

/// While this lives, `bytes` (whole pages) are known as registers. It must end before they are unmapped.
class GuardedArea {
public:
  static Result<GuardedArea> add(std::span<std::byte> bytes); ///< ENOBUFS: thousands are known already
  GuardedArea(GuardedArea&& other) noexcept : slot_(std::exchange(other.slot_, none)) {}
  GuardedArea& operator=(GuardedArea&&) = delete;
  ~GuardedArea();

private:
  static constexpr std::size_t none = ~std::size_t{0};
  explicit GuardedArea(std::size_t slot) noexcept : slot_(slot) {}
  std::size_t slot_;
};

} // namespace smartio::detail
