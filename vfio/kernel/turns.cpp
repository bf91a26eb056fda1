#include "turns.hpp"

namespace smartio::vfio::kernel {

Turns::Turn::Turn(Turns& turns, const Progress& progress)
    : turns_(turns), progress_([&turns, progress] {
        turns.moved();
        return progress();
      }) {
  turns_.wait(progress);
}

void Turns::wait(const Progress& progress) {
  std::unique_lock lock(mutex_);
  const auto mine = last_++;
  while (now_ != mine) {
    changed_.wait(lock, [this, seen = moves_] { return moves_ != seen; });
    lock.unlock();
    progress();
    lock.lock();
  }
}

void Turns::next() {
  const std::scoped_lock lock(mutex_);
  ++now_;
  ++moves_;
  changed_.notify_all();
}

void Turns::moved() {
  const std::scoped_lock lock(mutex_);
  ++moves_;
  changed_.notify_all();
}

} // namespace smartio::vfio::kernel
