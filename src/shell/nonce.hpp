// Numbers that nobody guesses.
#pragma once

#include <fmt/format.h>
#include <random>
#include <string>

namespace smartio {

/// 256 random bits as hex digits; std::random_device is the kernel's generator here.
inline std::string make_nonce() {
  std::random_device random;
  std::string nonce;
  for (int i = 0; i < 8; ++i) nonce += fmt::format("{:08x}", random());
  return nonce;
}

} // namespace smartio
