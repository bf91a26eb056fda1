// smartio_nvme: an NVMe disk, borrowed or straight, driven by this program.
#include "arguments.hpp"
#include "exit_code.hpp"
#include "open.hpp"
#include "output.hpp"
#include "report.hpp"
#include "result.hpp"
#include "transfer.hpp"

#include <unistd.h>

namespace {

using smartio::Result;
using smartio::write_output;

Result<void> perform(const Arguments& arguments) {
  if (arguments.verb == Verb::help) return write_output(usage);
  if (arguments.verb == Verb::version) return write_output("smartio_nvme " SMARTIO_VERSION "\n");
  TRY(smartio::guard_bus_errors()); // a disk that is pulled out is an error like others
  auto device = TRY(open_named(arguments.device, arguments.run_dir));
  const auto driver = TRY(nvme::Driver::start(std::move(device), arguments.interrupts));
  switch (arguments.verb) {
  case Verb::help:
  case Verb::version: break;
  case Verb::identify: return write_output(identity_report(driver->identity(), arguments.json));
  case Verb::read: return nvme::read_blocks(*driver, arguments.lba, arguments.count, STDOUT_FILENO);
  case Verb::write: return nvme::write_blocks(*driver, arguments.lba, STDIN_FILENO);
  case Verb::bench: {
    const auto measured = TRY(nvme::run_bench(*driver, arguments.workload));
    return write_output(bench_report(*measured, arguments.workload, arguments.interrupts, arguments.json));
  }
  }
  return {};
}

int complain(const smartio::Error& error, bool json) {
  const std::string message = smartio::to_string(error);
  smartio::say("smartio_nvme: {}\n", message);
  // Where standard output is what failed there is nobody left to tell.
  if (json) (void)write_output(error_report(smartio::exit_code(error), message));
  return smartio::exit_code(error);
}

} // namespace

int main(int argc, char** argv) {
  // A reader that went away is an error like others, and the device is left in order.
  if (const auto prepared = smartio::prepare_standard_streams(); !prepared) return complain(prepared.error(), false);
  const auto arguments = parse_arguments(argc, argv);
  if (!arguments) return complain(arguments.error(), false);
  const auto done = perform(*arguments);
  return done ? 0 : complain(done.error(), arguments->json && arguments->verb != Verb::read);
}
