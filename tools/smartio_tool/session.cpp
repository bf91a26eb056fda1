#include "session.hpp"

#include "output.hpp"
#include "print.hpp"
#include "result.hpp"
#include "text.hpp"

namespace smartio::tool {
namespace {

using nlohmann::json;

// Longer than any command takes at the daemon: it bounds its own waits for peers and devices by 4 s each.
constexpr std::chrono::seconds patience{20};

/// `result`, naming the node or device that the command was about.
json with_subject(json result, const json& request) {
  for (const char* key : {"node", "device"})
    if (request.contains(key) && !result.contains(key)) result[key] = request[key];
  return result;
}

} // namespace

std::string Session::word(std::size_t index) const {
  return index < arguments_.words.size() ? arguments_.words[index] : std::string{};
}

Result<json> Session::call(std::string_view command, const json& request) {
  if (!client_) client_ = TRY(ControlClient::connect(arguments_.run_dir, patience));
  std::string note;
  auto result = client_->call(command, request, &note);
  if (!note.empty()) say("smartio_tool: {}\n", printable(note));
  return result;
}

Result<void> Session::perform(const json& request, std::string (*print)(const json& result)) {
  json result = TRY(call(command(), request));
  if (arguments_.json) return write_output(json_line(with_subject(std::move(result), request)));
  return print == nullptr ? Result<void>{} : write_output(print(result));
}

Result<void> Session::print_events() {
  TRY(call("monitor", json::object()));
  json event;
  while (TRY(client_->next_event(event)))
    TRY(write_output(arguments_.json ? json_line(std::move(event)) : print_event(event)));
  return fail(Errc::peer_down, "smartiod on {} ended.", arguments_.run_dir);
}

std::string json_line(json document) {
  document["schema_version"] = 1;
  return document.dump(-1, ' ', false, json::error_handler_t::replace) + '\n';
}

} // namespace smartio::tool
