#include "fault_commands.hpp"

#include <array>
#include <cerrno>
#include <charconv>

namespace smartio::sim::nvme {

namespace {

using Flushes = StoreFaults::Flushes;

struct Command {
  std::string_view line;
  void (*change)(AllFaults&);
};

void pass_completions(AllFaults& faults) {
  faults.controller.completions_held = false;
  faults.controller.completion_delay = {};
}

constexpr std::array commands{
    Command{"interrupts pass", [](AllFaults& faults) { faults.controller.interrupts_lost = false; }},
    Command{"interrupts lose", [](AllFaults& faults) { faults.controller.interrupts_lost = true; }},
    Command{"completions pass", pass_completions},
    Command{"completions hold", [](AllFaults& faults) { faults.controller.completions_held = true; }},
    Command{"controller works", [](AllFaults& faults) { faults.controller.fatal = faults.controller.gone = false; }},
    Command{"controller fails", [](AllFaults& faults) { faults.controller.fatal = true; }},
    Command{"controller gone", [](AllFaults& faults) { faults.controller.gone = true; }},
    Command{"reads pass", [](AllFaults& faults) { faults.store.reads = 0; }},
    Command{"reads fail", [](AllFaults& faults) { faults.store.reads = EIO; }},
    Command{"writes pass", [](AllFaults& faults) { faults.store.writes = 0; }},
    Command{"writes fail", [](AllFaults& faults) { faults.store.writes = EIO; }},
    Command{"writes no-space", [](AllFaults& faults) { faults.store.writes = ENOSPC; }},
    Command{"flushes pass", [](AllFaults& faults) { faults.store.flushes = Flushes::done; }},
    Command{"flushes fail", [](AllFaults& faults) { faults.store.flushes = Flushes::failing; }},
    Command{"flushes lose", [](AllFaults& faults) { faults.store.flushes = Flushes::lost; }},
    Command{"flushes hold", [](AllFaults& faults) { faults.store.flushes = Flushes::held; }},
};

/// "completions delay MILLISECONDS", up to a minute.
std::optional<std::chrono::milliseconds> delay_of(std::string_view line) {
  constexpr std::string_view words = "completions delay ";
  constexpr int longest = 60'000;
  if (!line.starts_with(words)) return std::nullopt;
  const auto digits = line.substr(words.size());
  int number = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 0 || number > longest)
    return std::nullopt;
  return std::chrono::milliseconds(number);
}

} // namespace

std::optional<AllFaults> changed_by(AllFaults faults, std::string_view line) {
  if (const auto delay = delay_of(line)) {
    faults.controller.completion_delay = *delay;
    return faults;
  }
  for (const auto& command : commands) {
    if (command.line != line) continue;
    command.change(faults);
    return faults;
  }
  return std::nullopt;
}

} // namespace smartio::sim::nvme
