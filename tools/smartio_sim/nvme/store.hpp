// What the namespaces' blocks are kept in. Addresses are logical blocks that the caller has checked. Calls block as
// long as what is behind them does; flush is called on another thread than the others, at the same time.
#pragma once

#include "spec.hpp"

#include <cerrno>
#include <span>
#include <sys/uio.h>

namespace smartio::sim::nvme {

class Store {
public:
  virtual ~Store() = default;

  virtual std::uint64_t blocks() const = 0;
  virtual std::uint32_t block_size() const = 0;

  // Each gives 0 or an errno: EFAULT when the client's memory has gone, ENOSPC when there is no room, EIO and others
  // when the medium failed. A failed write or zero may have been done in part.
  virtual int read(std::uint64_t block, std::span<iovec> to) = 0;
  enum class Until {
    cached, ///< on the medium after the next flush
    stable, ///< on the medium when the call returns
  };
  virtual int write(std::uint64_t block, std::span<iovec> from, Until until) = 0; ///< may change the pieces
  /// All that was written is on the medium. A failure is told once: what was not written then may never be.
  virtual int flush() = 0;
  /// The blocks read as zeros; `deallocate` also gives up their space where that can be done. Cached.
  virtual int zero(std::uint64_t block, std::uint64_t count, bool deallocate) = 0;
};

/// What a command ends with for what the store gave; `failed`: how it says that the medium did.
constexpr Status status_of(int error, Status failed) {
  switch (error) {
  case 0: return Status::success;
  case EFAULT: return Status::data_transfer_error;
  case ENOSPC:
  case EDQUOT: return Status::capacity_exceeded;
  default: return failed;
  }
}

} // namespace smartio::sim::nvme
