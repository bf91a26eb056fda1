// `smartio_sim ntb`: its command line.
#include "announce.hpp"
#include "arguments.hpp"
#include "ntb_service.hpp"
#include "result.hpp"
#include "text.hpp"

#include <bit>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <sstream>

namespace smartio::sim {
namespace {

namespace po = boost::program_options;

po::options_description options() {
  po::options_description description("Options");
  auto add = description.add_options();
  add("socket-a", po::value<std::string>()->value_name("PATH"), "where to listen for the upstream end's client");
  add("socket-b", po::value<std::string>()->value_name("PATH"), "where to listen for the downstream end's client");
  add("model", po::value<std::string>()->value_name("NAME")->default_value("gen4"), "gen5, gen4, gen4-spr or gen3");
  add("window", po::value<std::string>()->value_name("BYTES")->default_value("2M"),
      "size of BAR 2 and BAR 4 (K, M, G), a power of two");
  add("faults", po::value<std::string>()->value_name("PATH"), "where to listen for faults to inject");
  add("help,h", "this text");
  return description;
}

std::string help() {
  std::ostringstream text;
  text
      << "Usage: smartio_sim ntb --socket-a PATH --socket-b PATH [--model NAME] [--window BYTES] [--faults PATH]\n\n"
         "Two Intel non-transparent bridge functions joined back to back. Prints \"ready PATH PATH\" when the sockets\n"
         "answer; SIGUSR1 prints a line of counters, SIGTERM ends it.\n\n"
      << options()
      << "\nFaults, one to a line, each answered with \"ok\" or \"unknown\":\n"
         "  link up | down | down-losing-registers\n"
         "  doorbells pass | lose | hold\n"
         "  writes pass | lose | hold | tear\n"
         "  reads pass | time-out\n"
         "  translation takes | stuck\n";
  return text.str();
}

Result<std::uint64_t> window_size(const std::string& text) {
  constexpr std::uint64_t least = 4096, most = 1ULL << 40;
  const std::uint64_t bytes = TRY(parse_size(text));
  if (!std::has_single_bit(bytes) || bytes < least || bytes > most)
    return fail(Errc::bad_request, "A window has a power of two of bytes, from 4K to 1024G, not {}.", text);
  return bytes;
}

Result<const ntb::Chip*> model(const std::string& name) {
  if (const auto* chip = ntb::find_chip(name)) return chip;
  return fail(Errc::bad_request, "There is no bridge {}; smartio_sim ntb --help lists them.", name);
}

/// Prints a line of counters at every SIGUSR1; SIGTERM and SIGINT end the loop.
void await_signal(boost::asio::io_context& io, boost::asio::signal_set& signals, const NtbService& service) {
  signals.async_wait([&io, &signals, &service](const boost::system::error_code& error, int number) {
    if (error) return;
    if (number != SIGUSR1) return io.stop();
    announce(service.counters());
    await_signal(io, signals, service);
  });
}

Result<void> run(const std::vector<std::string>& arguments) {
  const auto values = TRY(parse(ntb_model, arguments, options(), {"socket-a", "socket-b"}));
  const auto* chip = TRY(model(values["model"].as<std::string>()));
  const auto window = TRY(window_size(values["window"].as<std::string>()));
  const auto &a = values["socket-a"].as<std::string>(), &b = values["socket-b"].as<std::string>();
  boost::asio::io_context io{1};
  boost::asio::signal_set signals(io, SIGTERM, SIGINT, SIGUSR1);
  NtbService service(io, *chip, window);
  await_signal(io, signals, service);
  if (values.contains("faults")) TRY(service.listen_for_faults(values["faults"].as<std::string>()));
  TRY(service.listen(ntb::Side::a, a));
  TRY(service.listen(ntb::Side::b, b));
  announce(fmt::format("ready {} {}", a, b));
  io.run();
  return {};
}

} // namespace

const Model ntb_model{"ntb", "two non-transparent bridge functions joined back to back", help, run};

} // namespace smartio::sim
