// The state file: a line with everything, a line for each change since, and what a crash leaves of it.
#include "core_bench.hpp"
#include "intent.hpp"

#include "catch.hpp"

#include <algorithm>

using namespace smartio;
using namespace smartio::core;

namespace {

const NodeId self{8}, four{4};

/// Each kind of change, one after the other: the text so far, and the intent.
struct Growing {
  Intent intent{};
  std::string text = encode(intent, self);
  std::vector<std::pair<std::size_t, Intent>> steps{{text.size(), intent}};

  void changed(const std::string& line) {
    text += line;
    steps.emplace_back(text.size(), intent);
  }
};

Growing one_of_each() {
  Growing state;
  auto& intent = state.intent;
  intent.devices[0] = {"0000:06:00.0", false};
  state.changed(device_line(intent, 0));
  intent.devices[7] = {"vfio-user:/d", true, true, {"1:2", {{"device", "00-01"}, {"nvme", "S/N \"1\""}}}};
  state.changed(device_line(intent, 7));
  intent.devices[0].available = true;
  state.changed(device_line(intent, 0));
  intent.connections[four] = "h:7808";
  state.changed(connection_line(intent, four));
  intent.options["iommu"] = "type1";
  state.changed(options_line(intent));
  intent.filters.insert({"8086:", "", true});
  intent.filters.insert({"", "06:", false});
  state.changed(filters_line(intent));
  intent.removed.insert("0000:07:00.0");
  state.changed(removed_line(intent));
  intent.filters.erase(intent.filters.begin());
  state.changed(filters_line(intent));
  intent.removed.clear();
  state.changed(removed_line(intent));
  intent.devices.erase(7);
  state.changed(device_line(intent, 7));
  intent.connections.clear();
  state.changed(connection_line(intent, four));
  return state;
}

} // namespace

TEST_CASE("changes behind the whole are the same as the whole written anew") {
  const auto state = one_of_each();
  const auto read = parse_intent(state.text, self);
  REQUIRE(read);
  CHECK(*read == state.intent);
  CHECK(parse_intent(encode(*read, self), self) == *read);
  std::size_t lines = 0;
  for (const char c : state.text) lines += c == '\n';
  CHECK(lines == state.steps.size());
}

TEST_CASE("what a crash cuts off, at any byte, was not changed; what came before it was") {
  const auto state = one_of_each();
  for (auto cut = state.steps.front().first; cut <= state.text.size(); ++cut) {
    const auto read = parse_intent(state.text.substr(0, cut), self);
    REQUIRE(read);
    const auto last = std::ranges::find_if(state.steps, [cut](const auto& s) { return s.first > cut; });
    CHECK(*read == std::prev(last)->second);
  }
}

TEST_CASE("a line that is damaged, and not the last, is named") {
  const auto state = one_of_each();
  const auto second = state.steps[0].first;
  for (const char* damage : {"\n", "x\n", "{\"a\":1e999}\n", "[]\n", "{\"devices\":{}}\n",
                             "{\"devices\":[{\"index\":0}]}\n", "{\"connections\":[{\"node\":0,\"address\":null}]}\n",
                             "{\"options\":{\"iommu\":1}}\n", "{\"removed\":[1]}\n", "{\"filters\":[{}]}\n"}) {
    CAPTURE(damage);
    auto text = state.text;
    text.insert(second, damage);
    const auto read = parse_intent(text, self);
    REQUIRE_FALSE(read);
    CAPTURE(read.error().context);
    CHECK(read.error().context.starts_with("it is damaged: "));
    CHECK(read.error().context.find("line 2") != std::string::npos);
    CHECK(read.error().context.find("line 1") == std::string::npos);
  }
}

TEST_CASE("what no command would have accepted is not in a state file, and is said with its place") {
  const auto read = [](const char* part, Json value) {
    auto state = Json::parse(encode(one_of_each().intent, self));
    state[part] = std::move(value);
    const auto parsed = parse_intent(state.dump(), self);
    REQUIRE_FALSE(parsed);
    return parsed.error().context;
  };
  const auto disk = [](unsigned index, const char* address) {
    return Json{{"index", index}, {"address", address}, {"available", true}};
  };
  CHECK(read("devices", Json::array({disk(0, "0000:06:00.0"), disk(1, "06:00.0")}))
            .starts_with("it is damaged: 'devices': entry 2: "));
  CHECK(
      read("devices", Json::array({disk(3, "vfio-user:/a"), disk(3, "vfio-user:/b")})).find("index 3 is given twice") !=
      std::string::npos);
  CHECK(read("devices", Json::array({disk(3, "0000:0a:00.0"), disk(4, "0000:0A:00.0")}))
            .find("0000:0a:00.0 is given twice") != std::string::npos);
  CHECK(read("devices", Json::array({disk(0, ("vfio-user:/" + std::string(200, 'x')).c_str())}))
            .find("at most 107 bytes") != std::string::npos);
  CHECK(read("connections", {{{"node", 4}, {"address", "h"}}}).find("give HOST:PORT") != std::string::npos);
  CHECK(
      read("connections", {{{"node", 4}, {"address", "h:1"}}, {{"node", 4}, {"address", "h:2"}}}).find("given twice") !=
      std::string::npos);
  auto socket_only = disk(0, "0000:06:00.0");
  socket_only["without_reset"] = true;
  CHECK(read("devices", Json::array({socket_only})).find("not lent without a reset") != std::string::npos);
  socket_only = disk(0, "vfio-user:/d");
  for (const char* flag : {"without_reset", "by_filter"}) {
    auto odd = socket_only;
    odd[flag] = "yes";
    CHECK(read("devices", Json::array({odd})).find(fmt::format("'{}' is missing or not a truth value", flag)) !=
          std::string::npos);
  }
  CHECK(read("removed", Json::array({"06:00.0"})).find("'removed': entry 1: ") != std::string::npos);
  CHECK(read("options", {{"iommu", "nonsense"}}).find("'options': 'nonsense'") != std::string::npos);
  CHECK(read("options", {{"iommu", "a\nb"}}).find("'options': 'a?b'") != std::string::npos);
  CHECK(read("options", {{"peer-timeout", "abc"}}).find("'options': 'abc'") != std::string::npos);
}

TEST_CASE("addresses are kept as the kernel writes them") {
  auto state = Json::parse(encode(one_of_each().intent, self));
  state["devices"] = Json::array({{{"index", 0}, {"address", "0000:0A:00.0"}, {"available", true}}});
  CHECK(parse_intent(state.dump(), self).value().devices.at(0).address == "0000:0a:00.0");
}

TEST_CASE("where JSON is wrong is said") {
  for (const auto& [text, place] : {std::pair{"{\"a\": 1,\n \"b\": x}", "line 2, column 7: "},
                                    {"{\"a\": 1,}", "line 1, column 9: "},
                                    {"// none\n{}", "line 1, column 1: "},
                                    {"", "line 1, column 1: "},
                                    {"{\"a\":\n\n\xff}", "line 3, column 1: "}}) {
    CAPTURE(text);
    const auto object = parse_object(text);
    REQUIRE_FALSE(object);
    CAPTURE(object.error().context);
    CHECK(object.error().context.starts_with(std::string("a JSON object was expected; ") + place));
    CHECK(object.error().context.find("last read") == std::string::npos);
  }
  CHECK_FALSE(parse_object("{\"a\":1e999}")); // a number that is none has no place
}

TEST_CASE("a state file over many lines, as it was written before, is read") {
  const auto state = one_of_each();
  const auto before = Json::parse(encode(state.intent, self)).dump(1) + "\n";
  CHECK(parse_intent(before, self) == state.intent);
}

TEST_CASE("a state file of another node, or of another version, is refused") {
  auto state = Json::parse(encode(one_of_each().intent, self));
  REQUIRE(parse_intent(state.dump(), self));
  const auto others = parse_intent(state.dump(), four);
  REQUIRE_FALSE(others);
  CHECK(others.error().context == "it belongs to node 8: give node 4 a state directory of its own");
  for (const unsigned version : {0U, 2U}) {
    state["schema_version"] = version;
    CHECK_FALSE(parse_intent(state.dump(), self));
  }
}

TEST_CASE("what a command takes back stays taken back after a restart") {
  test::Bench node(self, {.devices = {{0, {"vfio-user:/d", true}}}, .connections = {{four, "h:4"}}});
  auto text = node.node.state();
  const auto kept = [&node, &text] {
    for (const auto& effect : node.effects)
      if (const auto* save = std::get_if<Save>(&effect)) text += save->line;
    return parse_intent(text, self).value();
  };
  REQUIRE(kept().devices.at(0).available);
  node.command("unavailable", {{"device", "80000"}});
  CHECK(kept().devices == decltype(Intent::devices){{0, {"vfio-user:/d", false}}});
  CHECK(kept().connections.contains(four));
  node.command("disconnect", {{"node", 4}});
  CHECK(kept().connections.empty());
  CHECK(kept() == parse_intent(node.node.state(), self));
}
