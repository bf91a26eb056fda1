// What can be made to go wrong in a controller; what can go wrong in its store is there (faulty_store.hpp).
#pragma once

#include <chrono>

namespace smartio::sim::nvme {

struct Faults {
  bool interrupts_lost = false;
  bool completions_held = false;                 ///< until they are let go
  std::chrono::milliseconds completion_delay{0}; ///< of each command
  bool fatal = false;                            ///< Controller Fatal Status, until the next reset
  bool gone = false; ///< pulled out: registers read as ones, writes go nowhere, no work is done
};

} // namespace smartio::sim::nvme
