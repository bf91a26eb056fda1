// A fuzzer whose every input is wrong.
#include "planted.hpp"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) {
  planted::commit("overflow");
  return 0;
}
