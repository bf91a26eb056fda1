#include "faults.hpp"

#include <array>

namespace smartio::sim::ntb {

namespace {

struct Command {
  std::string_view line;
  void (*change)(Faults&);
};

constexpr std::array commands{
    Command{"link up", [](Faults& faults) { faults.link_down = faults.loses_registers = false; }},
    Command{"link down", [](Faults& faults) { faults.link_down = true; }},
    Command{"link down-losing-registers", [](Faults& faults) { faults.link_down = faults.loses_registers = true; }},
    Command{"doorbells pass", [](Faults& faults) { faults.doorbells = Passing::normal; }},
    Command{"doorbells lose", [](Faults& faults) { faults.doorbells = Passing::lost; }},
    Command{"doorbells hold", [](Faults& faults) { faults.doorbells = Passing::held; }},
    Command{"writes pass", [](Faults& faults) { faults.writes = Passing::normal; }},
    Command{"writes lose", [](Faults& faults) { faults.writes = Passing::lost; }},
    Command{"writes hold", [](Faults& faults) { faults.writes = Passing::held; }},
    Command{"writes tear", [](Faults& faults) { faults.writes = Passing::torn; }},
    Command{"reads pass", [](Faults& faults) { faults.reads_time_out = false; }},
    Command{"reads time-out", [](Faults& faults) { faults.reads_time_out = true; }},
    Command{"translation takes", [](Faults& faults) { faults.translation_stuck = false; }},
    Command{"translation stuck", [](Faults& faults) { faults.translation_stuck = true; }},
};

} // namespace

std::optional<Faults> changed_by(Faults faults, std::string_view line) {
  for (const auto& command : commands) {
    if (command.line != line) continue;
    command.change(faults);
    return faults;
  }
  return std::nullopt;
}

} // namespace smartio::sim::ntb
