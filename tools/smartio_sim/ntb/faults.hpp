// What can be made to go wrong in a bridge. Nothing depends on time: what is held stays so until it is let go.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace smartio::sim::ntb {

enum class Passing : std::uint8_t { normal, lost, held, torn };

struct Faults {
  bool link_down = false;       ///< whatever the two ends ask for
  bool loses_registers = false; ///< when the link goes down, translations, limits and scratchpads are gone
  Passing doorbells = Passing::normal;
  /// Through windows; doorbells overtake those that are held, reads do not. Of one that is torn the second half is
  /// held, until the next write, a read, or a change of this.
  Passing writes = Passing::normal;
  bool reads_time_out = false;    ///< reads through windows give ones
  bool translation_stuck = false; ///< translation bases keep their value
};

/// `faults` changed by one line: "link up|down|down-losing-registers", "doorbells pass|lose|hold",
/// "writes pass|lose|hold|tear", "reads pass|time-out", "translation takes|stuck"; nullopt for anything else.
std::optional<Faults> changed_by(Faults faults, std::string_view line);

} // namespace smartio::sim::ntb
