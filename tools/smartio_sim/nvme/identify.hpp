// The data structures of the Identify command (1.4, 5.15.2). Pure.
#pragma once

#include "spec.hpp"

#include <array>
#include <cstddef>
#include <string>

namespace smartio::sim::nvme {

using IdentifyPage = std::array<std::byte, 4096>;

/// Who this controller and its namespace are.
struct Identity {
  std::string serial;               ///< at most 20 ASCII characters
  std::array<std::byte, 16> uuid{}; ///< of the namespace
  std::uint64_t blocks = 0;
  std::uint32_t block_size = 512;
};

/// Serial number and UUID that stay the same as long as `name` (the file's path) does.
Identity make_identity(const std::string& name, std::uint64_t blocks, std::uint32_t block_size);

IdentifyPage identify_controller(const Identity& identity);
IdentifyPage identify_namespace(const Identity& identity);
IdentifyPage namespace_list(std::uint32_t after); ///< active namespaces with a higher id than `after`
IdentifyPage namespace_descriptors(const Identity& identity);

} // namespace smartio::sim::nvme
