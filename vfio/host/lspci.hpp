// Config space as text that lspci reads: it renders a device of any host.
#pragma once

#include "bdf.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace smartio::vfio::host {

/// What `lspci -xxxx` prints and `lspci -F FILE` reads. `name` may be anything; `config` is 64, 256 or 4096 bytes.
std::string hexdump(const Bdf& bdf, std::string_view name, std::span<const std::byte> config);

} // namespace smartio::vfio::host
