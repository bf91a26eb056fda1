#include "handlers.hpp"

#include "device_word.hpp"
#include "lspci.hpp"
#include "output.hpp"
#include "print.hpp"
#include "result.hpp"
#include "run.hpp"
#include "session.hpp"
#include "text.hpp"

#include <iostream>
#include <unistd.h>

namespace smartio::tool {
namespace {

using nlohmann::json;

// GCC does not destroy what a braced list holds when TRY leaves in the middle of it: hence a name first.
Result<json> device_request(const Session& session) {
  const std::string device = TRY(parse_device(session.word(1)));
  return json{{"device", device}};
}

Result<json> node_request(const Session& session) {
  const NodeId node = TRY(parse_node_id(session.word(1)));
  return json{{"node", static_cast<unsigned>(node)}};
}

/// Asks on the terminal, if there is one and a driver would lose the device.
Result<void> confirm(Session& session, const json& request) {
  const Arguments& given = session.arguments();
  if (given.yes || given.force || ::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0) return {};
  const auto shown = session.call("show", request);
  const std::string driver = shown ? text_of(*shown, "driver") : std::string{};
  if (driver.empty()) return {};
  say("The driver {} has {} and will lose it. Go on? [y/N] ", printable(driver), printable(session.word(1)));
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "Y" || answer == "yes") return {};
  return std::unexpected(Error{std::make_error_code(std::errc::operation_canceled), "Not confirmed: nothing changed."});
}

} // namespace

Result<void> connect_node(Session& session) {
  json request = TRY(node_request(session));
  request["wait"] = session.arguments().wait;
  if (!session.arguments().address.empty()) request["address"] = session.arguments().address;
  return session.perform(request, nullptr);
}

Result<void> disconnect_node(Session& session) {
  const json request = TRY(node_request(session));
  return session.perform(request, nullptr);
}

Result<void> on_device(Session& session) {
  const json request = TRY(device_request(session));
  return session.perform(request, nullptr);
}

Result<void> make_available(Session& session) {
  json request = TRY(device_request(session));
  TRY(confirm(session, request));
  request["force"] = session.arguments().force;
  if (session.arguments().without_reset) request["without_reset"] = true;
  return session.perform(request, nullptr);
}

Result<void> borrow(Session& session) {
  json request = TRY(device_request(session));
  const std::string size = session.word(2);
  request["window"] = size.empty() ? 0 : TRY(parse_size(size));
  request["shared"] = session.arguments().shared;
  request["owner"] = session.arguments().owner;
  return session.perform(request, print_borrowed);
}

Result<void> run(Session& session) {
  const Arguments& given = session.arguments();
  json request = TRY(device_request(session));
  if (given.to_run.empty()) return fail(Errc::bad_request, "'run' needs a command to run: try 'smartio_tool help run'");
  request["shared"] = given.shared;
  request["owner"] = given.owner;
  // Borrowed for this connection: a loan that ends with it, whatever becomes of this program.
  const json loan = TRY(session.call("open", request));
  const auto exit_code = run_command(with_socket(given.to_run, text_of(loan, "socket")));
  const auto returned = session.call("return", {{"device", text_of(loan, "device")}, {"opened", true}});
  if (!returned)
    say("smartio_tool: {} was not returned: {}\n", printable(session.word(1)), printable(to_string(returned.error())));
  session.set_exit_code(TRY(exit_code));
  return {};
}

Result<void> show(Session& session) {
  const json request = TRY(device_request(session));
  return session.perform(request, print_show);
}

Result<void> on_filter(Session& session) {
  const Arguments& given = session.arguments();
  if (given.ids.empty() && given.slot.empty())
    return fail(Errc::bad_request, "'{}' needs -d or -s: try 'smartio_tool help {}'", session.command(),
                session.command());
  return session.perform({{"ids", given.ids}, {"slot", given.slot}}, nullptr);
}

Result<void> filters(Session& session) { return session.perform(json::object(), print_filters); }

Result<void> lspci(Session& session) {
  json request = TRY(device_request(session));
  const Arguments& given = session.arguments();
  if (given.raw && given.emulated) return fail(Errc::bad_request, "--raw and --emulated exclude each other");
  request["form"] = given.raw ? "raw" : given.emulated ? "emulated" : "vfio";
  const json result = TRY(session.call("config-space", request));
  const std::string text = TRY(render(text_of(result, "address"), text_of(result, "hex"), given.for_lspci));
  return given.json ? write_output(json_line({{"device", text_of(result, "device")}, {"lspci", text}}))
                    : write_output(text);
}

Result<void> list(Session& session) { return session.perform(json::object(), print_list); }
Result<void> status(Session& session) { return session.perform(json::object(), print_status); }
Result<void> scan(Session& session) { return session.perform(json::object(), print_found); }
Result<void> monitor(Session& session) { return session.print_events(); }

Result<void> config(Session& session) {
  json request = json::object();
  const std::size_t words = session.arguments().words.size() - 1;
  if (words >= 1) request["option"] = session.word(1);
  if (words >= 2) request["value"] = session.word(2);
  return session.perform(request, words == 2 ? nullptr : print_options);
}

} // namespace smartio::tool
