// Threads that take turns, in the order in which they came.
#pragma once

#include "progress.hpp"

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace smartio::vfio::kernel {

/// Whoever waits makes progress whenever the one whose turn it is does, so that it is not given up; what its progress
/// says is not heard before its turn. If the one whose turn it is hangs, all who wait do.
class Turns {
public:
  class Turn {
  public:
    Turn(Turns& turns, const Progress& progress); ///< waits for it
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { turns_.next(); }

    const Progress& progress() const { return progress_; } ///< the caller's, and that of all who wait

  private:
    Turns& turns_;
    Progress progress_;
  };

private:
  void wait(const Progress& progress);
  void next();
  void moved();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t last_ = 0, now_ = 0, moves_ = 0;
};

} // namespace smartio::vfio::kernel
