#include "commands.hpp"

#include "handlers.hpp"
#include "result.hpp"

#include <array>

namespace smartio::tool {
namespace {

constexpr std::string_view filter_arguments = "[-d [VENDOR]:[DEVICE][:CLASS]] [-s [[[DOMAIN]:]BUS:][SLOT][.FUNCTION]]";
constexpr std::string_view filter_details =
    "-d and -s are lspci's: 'lspci -d ::0108' shows what 'add-filter -d ::0108' adds.\n";

constexpr std::array<Command, 22> all_commands{{
    {"connect", "NODE [--address HOST:PORT] [--wait]", 1, 1, "let node NODE see and borrow this node's devices",
     "The link is one-way, from lender to borrower; it is kept across restarts and comes back after a failure.\n"
     "  --address HOST:PORT  where NODE listens; otherwise from the node table of smartiod's configuration\n"
     "  --wait               keep trying when NODE cannot be reached now\n",
     connect_node},
    {"disconnect", "NODE", 1, 1, "end the link to node NODE; what it borrowed is taken back", "", disconnect_node},
    {"add", "DEVICE", 1, 1, "put a device into the list, as unavailable",
     "Connected nodes see it; whatever uses the device now is left alone.\n", on_device},
    {"remove", "DEVICE", 1, 1, "take an unavailable device out of the list", "", on_device},
    {"available", "[--force] [--without-reset] DEVICE", 1, 1, "let connected nodes borrow a device",
     "Its local driver loses it. On a terminal this asks first when a driver is bound; --yes answers.\n"
     "  --force          even if the device is in use; also tries a quarantined device again\n"
     "  --without-reset  even if the device's vfio-user server cannot reset it: what one borrower leaves in it, the "
     "next "
     "one finds\n",
     make_available},
    {"unavailable", "DEVICE", 1, 1, "reclaim a device for local use; a loan of it is taken back", "", on_device},
    {"add-filter", filter_arguments, 0, 0, "add all devices that match, now and when they appear", filter_details,
     on_filter},
    {"available-filter", filter_arguments, 0, 0,
     "make all added devices that match available, now and when they appear", filter_details, on_filter},
    {"unavailable-filter", filter_arguments, 0, 0, "reclaim all devices that match, and delete the available-filter",
     filter_details, on_filter},
    {"remove-filter", filter_arguments, 0, 0, "delete a filter, and remove the unavailable devices that it added",
     "What was added by hand, or is added by another filter, too, stays.\n", on_filter},
    {"filters", "", 0, 0, "print the filters, and which devices they do not add",
     "Those were removed by hand; they come back with 'add DEVICE'.\n", filters},
    {"list", "", 0, 0, "print all devices known here, one line each", "", list},
    {"show", "DEVICE", 1, 1, "print all that is known about a device", "", show},
    {"lspci", "[--raw] [--emulated] DEVICE [LSPCI-OPTION]...", 1, 1, "print a device's configuration as lspci does",
     "What follows DEVICE is for lspci: -vvv, -xxxx, -nn and so on.\n"
     "  --raw       the configuration space as the lender's host has it, not as VFIO gives it\n"
     "  --emulated  the configuration space as a borrower sees it\n",
     lspci},
    {"borrow", "DEVICE [DMA-WINDOW-SIZE] [--shared] [--owner USER[:GROUP]]", 1, 2,
     "borrow a device; prints its id and the socket to use it by",
     "DMA-WINDOW-SIZE, in bytes or a number with K, M or G, reserves so much of the bridge's aperture for memory that\n"
     "the device is to reach; refused where it does not fit. On one host there is no aperture, and nothing to "
     "reserve.\n"
     "  --shared              share the device with other borrowers\n"
     "  --owner USER[:GROUP]  who may use the socket\n",
     borrow},
    {"return", "DEVICE", 1, 1, "give a borrowed device back", "", on_device},
    {"run", "[--shared] [--owner USER[:GROUP]] DEVICE [--] COMMAND...", 1, 1,
     "run a command with a device that is borrowed for as long",
     "Borrows the device, or uses the loan this node has; runs COMMAND with every {socket} in it replaced by the path "
     "of\n"
     "the loan's vfio-user socket; then returns what it borrowed, however the command ended. Signals go on to the\n"
     "command. The exit code is the command's, or 128 and the signal that ended it; 127: there is no such command,\n"
     "126: it cannot be started; before it starts, those of all commands of smartio_tool.\n"
     "  --shared              share the device with other borrowers\n"
     "  --owner USER[:GROUP]  who may use the socket\n",
     run},
    {"status", "", 0, 0, "print the state of this node: peers, fabrics, devices, loans, counters", "", status},
    {"monitor", "", 0, 0, "print events as they happen, one line each, until interrupted", "", monitor},
    {"config", "[OPTION [VALUE]]", 0, 2, "print options, or set one; kept across restarts", "", config},
    {"scan", "", 0, 0, "look for devices that appeared; prints their ids", "", scan},
    {"help", "[COMMAND]", 0, 1, "print this, or the help of one command", "", nullptr},
}};

bool takes(const Command& command, std::string_view option) {
  return command.arguments.find(fmt::format("[{}{}", option.size() == 1 ? "-" : "--", option)) !=
         std::string_view::npos;
}

std::string usage(const Command& command) {
  return fmt::format("{}{}{}", command.name, command.arguments.empty() ? "" : " ", command.arguments);
}

constexpr std::string_view global_help = "\nOptions, before or after the command:\n"
                                         "  --run-dir DIR  the run directory of the smartiod to talk to; otherwise\n"
                                         "                 $SMARTIO_RUN_DIR, otherwise /run/smartio\n"
                                         "  --json         print one JSON document\n"
                                         "  --yes          ask nothing\n"
                                         "  --help         print the help of the command\n"
                                         "  --version      print the version\n";

} // namespace

std::span<const Command> commands() { return all_commands; }

Result<const Command*> find_command(std::string_view name) {
  for (const Command& command : all_commands)
    if (command.name == name) return &command;
  return fail(Errc::bad_request, "There is no command '{}': try 'smartio_tool help'.", name);
}

Result<const Command*> find_command(const Arguments& arguments) {
  if (arguments.words.empty()) return fail(Errc::bad_request, "No command was given: try 'smartio_tool help'.");
  const Command* command = TRY(find_command(arguments.words.front()));
  const std::size_t words = arguments.words.size() - 1;
  if (words < command->least || words > command->most)
    return fail(Errc::bad_request, "Too {} arguments; usage: smartio_tool {}", words < command->least ? "few" : "many",
                usage(*command));
  for (const std::string& option : arguments.options)
    if (!takes(*command, option))
      return fail(Errc::bad_request, "'{}' takes no --{}; usage: smartio_tool {}", command->name, option,
                  usage(*command));
  return command;
}

std::string help() {
  std::string text = "Usage: smartio_tool COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:\n";
  for (const Command& command : all_commands) text += fmt::format("  {:<18} {}\n", command.name, command.summary);
  text += "\nNODE is a number from 1 to 65535. DEVICE is an id as 'list' prints it (80002), a PCI address\n"
          "(06:00.0), or vfio-user:PATH.\n";
  return text += global_help;
}

std::string help(const Command& command) {
  std::string text = fmt::format("Usage: smartio_tool {}\n\nTo {}.\n", usage(command), command.summary);
  if (!command.details.empty()) text += fmt::format("\n{}", command.details);
  return text += global_help;
}

} // namespace smartio::tool
