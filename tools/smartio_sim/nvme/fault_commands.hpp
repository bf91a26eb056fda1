// The lines that inject faults into a simulated NVMe controller and its store.
#pragma once

#include "faults.hpp"
#include "faulty_store.hpp"

#include <optional>
#include <string_view>

namespace smartio::sim::nvme {

struct AllFaults {
  Faults controller;
  StoreFaults store;
};

/// `faults` changed by one line of fault_help; nullopt for anything else.
std::optional<AllFaults> changed_by(AllFaults faults, std::string_view line);

inline constexpr char fault_help[] = "  interrupts pass | lose\n"
                                     "  completions pass | hold | delay MILLISECONDS\n"
                                     "  controller works | fails | gone\n"
                                     "  reads pass | fail\n"
                                     "  writes pass | fail | no-space\n"
                                     "  flushes pass | fail | lose | hold\n";

} // namespace smartio::sim::nvme
