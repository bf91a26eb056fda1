// A store that is a file, through the page cache.
#pragma once

#include "fd.hpp"
#include "store.hpp"

#include <optional>
#include <smartio/error.hpp>
#include <string>

namespace smartio::sim::nvme {

class FileStore final : public Store {
public:
  /// Opens (with `bytes`: creates or extends to that size) the file and locks it against a second model. Errors:
  /// Errc::bad_request (no such file and no size, not a regular file, not a whole number of blocks), Errc::busy, errno.
  static Result<FileStore> open(const std::string& path, std::optional<std::uint64_t> bytes, std::uint32_t block_size);
  /// The same on an open file, which is not locked.
  static Result<FileStore> from_fd(Fd fd, std::uint32_t block_size);

  /// What tells this file from every other, and stays the same as long as it is that file: whatever it is called, in
  /// whichever mount namespace or container, across restarts of this program and of the host. It is the file system's
  /// number of the file and the nanosecond of its creation; without the latter the device of the file system stands in,
  /// which may change with a restart of the host. A host that is itself a copy of another has copies with one name.
  Result<std::string> name() const;

  std::uint64_t blocks() const override { return blocks_; }
  std::uint32_t block_size() const override { return block_size_; }
  int read(std::uint64_t block, std::span<iovec> to) override;
  int write(std::uint64_t block, std::span<iovec> from, Until until) override; ///< stable: these blocks alone
  int flush() override;                                                        ///< fdatasync
  int zero(std::uint64_t block, std::uint64_t count, bool deallocate) override;

private:
  FileStore(Fd fd, std::uint64_t blocks, std::uint32_t block_size)
      : fd_(std::move(fd)), blocks_(blocks), block_size_(block_size) {}
  int write_zeros(std::uint64_t offset, std::uint64_t bytes);

  Fd fd_;
  std::uint64_t blocks_;
  std::uint32_t block_size_;
};

} // namespace smartio::sim::nvme
