#include "announce.hpp"

#include "output.hpp"
#include "result.hpp"

namespace smartio::sim {

void announce(std::string_view line) {
  if (const auto written = write_output(fmt::format("{}\n", line)); !written)
    say("smartio_sim: {}\n", to_string(written.error()));
}

} // namespace smartio::sim
