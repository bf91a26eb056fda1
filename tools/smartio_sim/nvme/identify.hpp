// The data structures of the Identify command (1.4, 5.15.2). Pure.
#pragma once

#include "spec.hpp"

#include <array>
#include <cstddef>
#include <string>

namespace smartio::sim::nvme {

using IdentifyPage = std::array<std::byte, 4096>;

/// Who this controller and its namespaces are.
struct Identity {
  std::string serial;               ///< at most 20 ASCII characters
  std::array<std::byte, 16> uuid{}; ///< of the first namespace
  std::uint64_t blocks = 0;         ///< of each namespace
  std::uint32_t block_size = 512;
  std::uint32_t namespaces = 1; ///< ids 1 to this; the store holds them one after the other

  bool has(std::uint32_t nsid) const noexcept { return nsid != 0 && nsid <= namespaces; }
};

/// Serial number and UUID that stay the same as long as `name` does. `blocks`: of the whole store, which the namespaces
/// share equally; what is left over is nobody's.
Identity make_identity(const std::string& name, std::uint64_t blocks, std::uint32_t block_size,
                       std::uint32_t namespaces = 1);

IdentifyPage identify_controller(const Identity& identity);
IdentifyPage identify_namespace(const Identity& identity);
IdentifyPage namespace_list(const Identity& identity,
                            std::uint32_t after); ///< active namespaces with a higher id than `after`
IdentifyPage namespace_descriptors(const Identity& identity, std::uint32_t nsid);

} // namespace smartio::sim::nvme
