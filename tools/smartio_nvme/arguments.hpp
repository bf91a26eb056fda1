// The command line of smartio_nvme.
#pragma once

#include "bench.hpp"

#include <smartio/error.hpp>
#include <string>

enum class Verb { help, version, identify, read, write, bench };

struct Arguments {
  Verb verb = Verb::help;
  std::string device, run_dir;
  bool json = false, interrupts = false;
  std::uint64_t lba = 0, count = 0;
  nvme::Workload workload;
};

/// Options may stand anywhere. Errc::bad_request with a sentence for anything that is not in `usage`.
smartio::Result<Arguments> parse_arguments(int argc, char** argv);

extern const char usage[];
