// A disk that fails when it is told to, and knows what of it would survive a loss of power.
#pragma once

#include "nvme/file_store.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace smartio::test {

namespace nvme = sim::nvme;

class Disk final : public nvme::Store {
public:
  static constexpr std::uint64_t bytes = 64 << 10;

  explicit Disk(std::uint32_t block_size) : file_(open(fd_, block_size)) {}

  std::uint64_t blocks() const override { return file_.blocks(); }
  std::uint32_t block_size() const override { return file_.block_size(); }
  int read(std::uint64_t block, std::span<iovec> to) override {
    if (const int error = fails(fail_read)) return error;
    return file_.read(block, to);
  }
  int write(std::uint64_t block, std::span<iovec> from, Until until) override {
    if (const int error = fails(fail_write)) {
      lost = lost || until == Until::stable;
      return error;
    }
    const std::lock_guard lock(mutex_);
    const int error = file_.write(block, from, Until::cached);
    if (error == 0 && until == Until::stable) medium_ = content(); // more than was asked for, but never less
    return error;
  }
  int flush() override {
    const std::lock_guard lock(mutex_);
    if (const int error = fails(fail_flush)) {
      lost = true;
      return error;
    }
    medium_ = content();
    return 0;
  }
  int zero(std::uint64_t block, std::uint64_t count, bool deallocate) override {
    if (const int error = fails(fail_write)) return error;
    return file_.zero(block, count, deallocate);
  }

  /// Errno of the next call of that kind; 0: it works.
  std::atomic<int> fail_read = 0, fail_write = 0, fail_flush = 0;
  std::atomic<bool> lost = false; ///< not all is on the medium, and nobody knows what: the controller may flush no more

  std::vector<std::byte> content() const {
    std::vector<std::byte> found(bytes);
    if (::pread(fd_.get(), found.data(), bytes, 0) != static_cast<ssize_t>(bytes)) std::abort();
    return found;
  }
  std::vector<std::byte> medium() {
    const std::lock_guard lock(mutex_);
    return medium_;
  }
  std::uint64_t file_bytes() const {
    struct stat status {};
    return ::fstat(fd_.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
  }

private:
  static int fails(std::atomic<int>& how) { return how.exchange(0); }
  static nvme::FileStore open(const Fd& fd, std::uint32_t block_size) {
    return nvme::FileStore::from_fd(fd.duplicate().value(), block_size).value();
  }

  Fd fd_ = make_memfd("disk", bytes).value();
  nvme::FileStore file_;
  std::mutex mutex_;
  std::vector<std::byte> medium_ = std::vector<std::byte>(bytes); ///< guarded by mutex_
};

} // namespace smartio::test
