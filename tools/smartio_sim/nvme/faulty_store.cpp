#include "faulty_store.hpp"

#include <cerrno>

namespace smartio::sim::nvme {

StoreFaults FaultyStore::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_;
}

void FaultyStore::set_faults(const StoreFaults& faults) {
  {
    const std::lock_guard lock(mutex_);
    faults_ = faults;
  }
  changed_.notify_all();
}

StoreCounters FaultyStore::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

int FaultyStore::read(std::uint64_t block, std::span<iovec> to) {
  {
    const std::lock_guard lock(mutex_);
    ++counters_.reads;
    if (faults_.reads != 0) return faults_.reads;
  }
  return store_->read(block, to);
}

int FaultyStore::write(std::uint64_t block, std::span<iovec> from, Until until) {
  {
    const std::lock_guard lock(mutex_);
    ++(until == Until::stable ? counters_.stable_writes : counters_.writes);
    if (faults_.writes != 0) return faults_.writes;
  }
  return store_->write(block, from, until);
}

int FaultyStore::zero(std::uint64_t block, std::uint64_t count, bool deallocate) {
  {
    const std::lock_guard lock(mutex_);
    ++counters_.writes;
    if (faults_.writes != 0) return faults_.writes;
  }
  return store_->zero(block, count, deallocate);
}

int FaultyStore::flush() {
  using Flushes = StoreFaults::Flushes;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return faults_.flushes != Flushes::held; });
    ++counters_.flushes;
    if (faults_.flushes == Flushes::lost) return ++counters_.lost_flushes, 0;
    if (faults_.flushes == Flushes::failing) return ++counters_.failed_flushes, EIO;
  }
  const int error = store_->flush();
  if (error != 0) {
    const std::lock_guard lock(mutex_);
    ++counters_.failed_flushes;
  }
  return error;
}

} // namespace smartio::sim::nvme
