// Which bridges are known.
#include "ntb/driver.hpp"

#include "ntb/intel.hpp"
#include "result.hpp"

namespace smartio::fabric::ntb {

Result<std::unique_ptr<Driver>> driver_of(std::uint32_t id) {
  constexpr std::uint32_t skylake = 0x201c8086, ice_lake = 0x347e8086, granite_rapids = 0x0db48086;
  switch (id) {
  case skylake: return make_intel_gen3();
  case ice_lake: return make_intel_gen4(false);
  case granite_rapids: return make_intel_gen4(true); // which Linux drives as it does Sapphire Rapids
  default:
    return fail(Errc::bad_request, "The device {:04x}:{:04x} is no bridge that can be driven.", id & 0xffff, id >> 16);
  }
}

} // namespace smartio::fabric::ntb
