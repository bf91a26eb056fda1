#include "nvme.hpp"

#include <fmt/format.h>
#include <utility>

namespace nvme {
namespace {

// Status codes by (type << 8 | code): NVM Express 1.4, figures 128 to 133.
constexpr std::pair<unsigned, const char*> names[] = {
    {0x001, "invalid command opcode"},
    {0x002, "invalid field in command"},
    {0x003, "command id conflict"},
    {0x004, "data transfer error"},
    {0x005, "aborted due to power loss"},
    {0x006, "internal error"},
    {0x007, "abort requested"},
    {0x008, "aborted: queue deleted"},
    {0x00b, "invalid namespace or format"},
    {0x00c, "command sequence error"},
    {0x013, "invalid PRP offset"},
    {0x020, "namespace is write protected"},
    {0x080, "LBA out of range"},
    {0x081, "capacity exceeded"},
    {0x082, "namespace not ready"},
    {0x083, "reservation conflict"},
    {0x100, "completion queue invalid"},
    {0x101, "invalid queue identifier"},
    {0x102, "invalid queue size"},
    {0x108, "invalid interrupt vector"},
    {0x182, "attempted write to read only range"},
    {0x280, "write fault"},
    {0x281, "unrecovered read error"},
    {0x285, "compare failure"},
    {0x286, "access denied"},
    {0x287, "deallocated or unwritten block"},
};

} // namespace

std::string status_text(std::uint16_t status) {
  const unsigned type = status >> 9 & 7, code = status >> 1 & 0xff;
  const char* name = "no name here";
  for (const auto& [number, text] : names)
    if (number == (type << 8 | code)) name = text;
  return fmt::format("status {}/{:#04x} ({})", type, code, name);
}

} // namespace nvme
