// smartio_nvme: an NVMe disk, borrowed or straight, driven by this program.
#include "arguments.hpp"
#include "exit_code.hpp"
#include "open.hpp"
#include "report.hpp"
#include "result.hpp"
#include "transfer.hpp"

#include <csignal>
#include <cstdio>
#include <unistd.h>

namespace {

using smartio::Result;

Result<void> print(const std::string& text) {
  if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0)
    return smartio::fail_errno(errno, "write to standard output");
  return {};
}

Result<void> perform(const Arguments& arguments) {
  if (arguments.verb == Verb::help) return print(usage);
  TRY(smartio::guard_bus_errors()); // a disk that is pulled out is an error like others
  auto device = TRY(open_named(arguments.device, arguments.run_dir));
  const auto driver = TRY(nvme::Driver::start(std::move(device), arguments.interrupts));
  switch (arguments.verb) {
  case Verb::help: break;
  case Verb::identify: return print(identity_report(driver->identity(), arguments.json));
  case Verb::read: return nvme::read_blocks(*driver, arguments.lba, arguments.count, STDOUT_FILENO);
  case Verb::write: return nvme::write_blocks(*driver, arguments.lba, STDIN_FILENO);
  case Verb::bench: {
    const auto measured = TRY(nvme::run_bench(*driver, arguments.workload));
    return print(bench_report(*measured, arguments.workload, arguments.interrupts, arguments.json));
  }
  }
  return {};
}

int complain(const smartio::Error& error, bool json) {
  const std::string message = smartio::to_string(error);
  std::fprintf(stderr, "smartio_nvme: %s\n", message.c_str());
  if (json) std::fputs(error_report(smartio::exit_code(error), message).c_str(), stdout);
  return smartio::exit_code(error);
}

} // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN); // a reader that went away is an error like others, and the device is left in order
  const auto arguments = parse_arguments(argc, argv);
  if (!arguments) return complain(arguments.error(), false);
  const auto done = perform(*arguments);
  return done ? 0 : complain(done.error(), arguments->json && arguments->verb != Verb::read);
}
