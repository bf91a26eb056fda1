#include "chip.hpp"

#include <algorithm>
#include <iterator>

namespace smartio::sim::ntb {

// Back to back, upstream and downstream: Ice Lake has the connection in bits 8-9 and the position in bit 12, Sapphire
// Rapids in 8-10 and 14, as Granite Rapids ("generation 5", which Linux drives by the same code), Skylake in 0-1 and 4.
// The link has 16 lanes, of 16 GT/s, 32 GT/s or 8 GT/s.
const Chip chips[chip_count] = {
    {"gen4", 4, 0x347e, 0x04, true, 0x50, 0x8080, 0x0200, 0x1200, 0x2104},
    {"gen4-spr", 4, 0x347e, 0x10, false, 0x50, 0x8080, 0x0200, 0x4200, 0x2104},
    {"gen5", 4, 0x0db4, 0x00, false, 0x50, 0x8080, 0x0200, 0x4200, 0x2105},
    {"gen3", 3, 0x201c, 0x04, true, 0xd0, 0x0180, 0x01, 0x11, 0x2103},
};

const Chip* find_chip(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(chips), std::end(chips), [&](const Chip& chip) { return chip.name == name; });
  return found == std::end(chips) ? nullptr : found;
}

} // namespace smartio::sim::ntb
