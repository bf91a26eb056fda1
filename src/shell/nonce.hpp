// Numbers that nobody guesses.
#pragma once

#include <fmt/format.h>
#include <random>
#include <string>

namespace smartio {

/// 32 random bits a word, as hex digits; std::random_device is the kernel's generator here.
inline std::string random_hex(unsigned words) {
  std::random_device random;
  std::string digits;
  for (unsigned i = 0; i < words; ++i) digits += fmt::format("{:08x}", random());
  return digits;
}
inline std::string make_nonce() { return random_hex(8); }
inline std::string make_token() { return random_hex(4); }

} // namespace smartio
