// A store that can be made to fail, and that counts what it was asked for. Faults may be changed by any thread.
#pragma once

#include "store.hpp"

#include <condition_variable>
#include <memory>
#include <mutex>

namespace smartio::sim::nvme {

struct StoreFaults {
  int reads = 0, writes = 0; ///< the errno they end with, before anything is done; zeroing is a write
  enum class Flushes {
    done,
    failing, ///< EIO, without having been done
    lost,    ///< success, without having been done
    held,    ///< until they are no longer held
  } flushes = Flushes::done;
};

struct StoreCounters {
  std::uint64_t reads = 0, writes = 0, stable_writes = 0, flushes = 0, failed_flushes = 0, lost_flushes = 0;
};

class FaultyStore final : public Store {
public:
  explicit FaultyStore(std::unique_ptr<Store> store) : store_(std::move(store)) {}

  StoreFaults faults() const;
  void set_faults(const StoreFaults& faults);
  StoreCounters counters() const;

  std::uint64_t blocks() const override { return store_->blocks(); }
  std::uint32_t block_size() const override { return store_->block_size(); }
  int read(std::uint64_t block, std::span<iovec> to) override;
  int write(std::uint64_t block, std::span<iovec> from, Until until) override;
  int flush() override;
  int zero(std::uint64_t block, std::uint64_t count, bool deallocate) override;

private:
  std::unique_ptr<Store> store_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  StoreFaults faults_;     ///< guarded by mutex_
  StoreCounters counters_; ///< guarded by mutex_
};

} // namespace smartio::sim::nvme
