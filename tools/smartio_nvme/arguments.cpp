#include "arguments.hpp"

#include "result.hpp"
#include "text.hpp"

#include <boost/program_options.hpp>
#include <cstdlib>

namespace po = boost::program_options;
using smartio::Errc;
using smartio::fail;
using smartio::Result;

const char usage[] = R"(smartio_nvme [--run-dir DIR] [--json] DEVICE COMMAND

Drives an NVMe disk from user space. DEVICE is an id as 'smartio_tool list' prints it,
borrowed for as long as this runs, or vfio-user:PATH, opened straight without lending.

  identify          what the controller and its first namespace are
  read LBA COUNT    COUNT logical blocks from LBA on, to standard output
  write LBA         standard input, whole logical blocks, to the blocks from LBA on
  bench             random I/O over the whole disk:
    --rw randread|randwrite   randwrite destroys what is on the disk (default randread)
    --bs N                    bytes a command, with K or M (default 4K)
    --qd N                    commands under way at once (default 1)
    --seconds N, --commands N how long (default 5 seconds)

  --interrupts      wait for interrupts instead of polling
  --json            one JSON document on standard output (identify, bench)
  --run-dir DIR     of the smartiod to borrow from (default $SMARTIO_RUN_DIR or /run/smartio)
  --version         print the version

Exit code: 0 done, 1 failed, 2 usage, 3 no such device, 4 in use or taken back,
5 not permitted, 6 device or daemon not reachable.
)";

namespace {

using Words = std::vector<std::string>;

Result<po::variables_map> parse_options(int argc, char** argv) {
  po::options_description options;
  options.add_options()("help,h", "")("version", "")("json", "")("interrupts", "")("run-dir", po::value<std::string>());
  options.add_options()("rw", po::value<std::string>())("bs", po::value<std::string>())("qd", po::value<std::string>());
  options.add_options()("seconds", po::value<std::string>())("commands", po::value<std::string>());
  options.add_options()("words", po::value<Words>());
  po::positional_options_description positions;
  positions.add("words", -1);
  po::variables_map values;
  try {
    const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv)
                  .options(options)
                  .positional(positions)
                  .style(style)
                  .extra_parser(smartio::hyphenated_option)
                  .run(),
              values);
  } catch (const po::error& error) {
    return fail(Errc::bad_request, "{} (smartio_nvme --help shows what there is)", error.what());
  }
  return values;
}

Result<std::uint64_t> number(const std::string& text, const char* name) {
  const auto value = smartio::parse_number(text);
  if (!value) return fail(Errc::bad_request, "{} is a number, not '{}'", name, text);
  return *value;
}

Result<std::optional<std::uint64_t>> limit(const po::variables_map& values, const std::string& name) {
  if (!values.contains(name)) return std::nullopt;
  const auto value = TRY(number(values[name].as<std::string>(), ("--" + name).c_str()));
  if (value == 0 || value > 1'000'000'000'000) return fail(Errc::bad_request, "--{} {} is out of range", name, value);
  return value;
}

Result<nvme::Workload> parse_workload(const po::variables_map& values) {
  nvme::Workload workload;
  if (values.contains("rw")) {
    const auto& rw = values["rw"].as<std::string>();
    if (rw != "randread" && rw != "randwrite")
      return fail(Errc::bad_request, "--rw is randread or randwrite, not '{}'", rw);
    workload.write = rw == "randwrite";
  }
  if (values.contains("bs")) workload.bytes = TRY(smartio::parse_size(values["bs"].as<std::string>()));
  if (values.contains("qd")) workload.depth = TRY(number(values["qd"].as<std::string>(), "--qd"));
  workload.seconds = TRY(limit(values, "seconds"));
  workload.commands = TRY(limit(values, "commands"));
  if (workload.seconds > 1'000'000'000)
    return fail(Errc::bad_request, "--seconds {} is out of range", *workload.seconds);
  return workload;
}

Result<void> parse_words(const Words& words, Arguments& arguments) {
  struct Shape {
    const char* name;
    Verb verb;
    std::size_t words;
    const char* form;
  };
  constexpr Shape shapes[] = {{"identify", Verb::identify, 2, "DEVICE identify"},
                              {"read", Verb::read, 4, "DEVICE read LBA COUNT"},
                              {"write", Verb::write, 3, "DEVICE write LBA"},
                              {"bench", Verb::bench, 2, "DEVICE bench"}};
  if (words.size() < 2) return fail(Errc::bad_request, "Give a device and a command: smartio_nvme --help shows them");
  arguments.device = words[0];
  for (const Shape& shape : shapes) {
    if (words[1] != shape.name) continue;
    if (words.size() != shape.words) return fail(Errc::bad_request, "The command is: smartio_nvme {}", shape.form);
    arguments.verb = shape.verb;
    if (words.size() > 2) arguments.lba = TRY(number(words[2], "LBA"));
    if (words.size() > 3) arguments.count = TRY(number(words[3], "COUNT"));
    return {};
  }
  return fail(Errc::bad_request, "There is no command '{}': smartio_nvme --help shows them", words[1]);
}

} // namespace

Result<Arguments> parse_arguments(int argc, char** argv) {
  const auto values = TRY(parse_options(argc, argv));
  Arguments arguments;
  const char* run_dir = std::getenv("SMARTIO_RUN_DIR");
  arguments.run_dir = run_dir != nullptr && *run_dir != '\0' ? run_dir : "/run/smartio";
  if (values.contains("run-dir")) arguments.run_dir = values["run-dir"].as<std::string>();
  arguments.json = values.contains("json");
  arguments.interrupts = values.contains("interrupts");
  if (values.contains("help")) return arguments;
  if (values.contains("version")) {
    arguments.verb = Verb::version;
    return arguments;
  }
  TRY(parse_words(values.contains("words") ? values["words"].as<Words>() : Words{}, arguments));
  arguments.workload = TRY(parse_workload(values));
  return arguments;
}
