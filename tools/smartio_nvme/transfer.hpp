// Blocks to and from files.
#pragma once

#include "driver.hpp"

namespace nvme {

/// Reads `count` blocks at `lba` into descriptor `out`, in order. Errc::bad_request if they are not all there.
smartio::Result<void> read_blocks(Driver& driver, std::uint64_t lba, std::uint64_t count, int out);

/// Writes what `in` gives until its end to the blocks from `lba` on, then flushes. Errc::bad_request if it is not whole
/// blocks or does not fit: nothing is written then if `in` is a file, what came before otherwise.
smartio::Result<void> write_blocks(Driver& driver, std::uint64_t lba, int in);

} // namespace nvme
